"""A network proposed, with where it comes from."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from buildup.graph.edit import Edit
from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to be trained, and the one that its scores are compared with."""

    network: Network
    parent: "Candidate | None" = None
    """What it must beat; None for the base."""
    edits: tuple[Edit, ...] = ()
    """What turns the parent into it: one edit, or several when the rule looked ahead."""
    giver: "Candidate | None" = None
    """Whose trained weights of the same seed it begins with; None where it is trained from the start."""

    @cached_property
    def id(self) -> str:
        """The fingerprint of its network, and a hash of whose weights it begins with, these with all that went before.

        So a network that is come to in two ways is two candidates where weights are inherited.
        """
        if self.giver is None:
            return self.fingerprint
        return f"{self.fingerprint}-{hashlib.sha256(self.giver.id.encode()).hexdigest()[:12]}"

    @cached_property
    def fingerprint(self) -> str:
        """The name of its network, however that is trained."""
        return fingerprint(self.network)

    @cached_property
    def continued(self) -> "Candidate":
        """The same network, which goes on from its own weights."""
        return Candidate(network=self.network, giver=self)

    @cached_property
    def layout(self) -> str:
        """Its letters, one a block."""
        return layout(self.network)

    @cached_property
    def edit(self) -> str:
        """Its edits as one phrase for people; empty for the base."""
        if self.giver and not self.edits:
            return f"{self.layout} for longer"
        return ", ".join(str(edit) for edit in self.edits)
