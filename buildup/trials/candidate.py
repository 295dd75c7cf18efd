"""A network proposed, with where it comes from."""

from dataclasses import dataclass
from functools import cached_property

from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.graph.network import Edit, Network


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to be trained, and the one that its scores are compared with."""

    network: Network
    parent: "Candidate | None" = None
    """What it must beat; None for the base."""
    edits: tuple[Edit, ...] = ()
    """What turns the parent into it: one edit, or several when the rule looked ahead."""

    @cached_property
    def id(self) -> str:
        """The fingerprint of its network."""
        return fingerprint(self.network)

    @cached_property
    def layout(self) -> str:
        """Its letters, one a block."""
        return layout(self.network)

    @cached_property
    def edit(self) -> str:
        """Its edits as one phrase for people; empty for the base."""
        return ", ".join(str(edit) for edit in self.edits)
