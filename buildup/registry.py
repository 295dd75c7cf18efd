"""Members of one concept by name, such as judges or datasets: ours, a caller's, and those of installed packages.

A member says its own name. A package offers one by an entry point of that name, which is imported when it is needed:

    [project.entry-points."buildup.judges"]
    cautious = "my_package.judging:CAUTIOUS"
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from buildup.errors import RequestError, unknown


class Named(Protocol):
    """What can be registered: a value or a class with a name."""

    @property
    def name(self) -> str:
        """What users type."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The members of a concept: those registered, then those of packages.

    Args:
        what: The concept as messages call it: "unknown judge 'likly'".
        group: The group of its entry points.
        error: Raised for a name that is unknown or taken, and for a package that can't be loaded.
        fill: Registers our own members; called when the first member is asked for. Without it they are registered
            where they are defined.
    """

    def __init__(
        self,
        what: str,
        *,
        group: str,
        error: type[RequestError] = RequestError,
        fill: Callable[[], object] | None = None,
    ) -> None:
        self.what, self.group, self.error = what, group, error
        self._fill = fill
        self._registered: dict[str, T] = {}
        self._broken: set[str] = set()

    def register(self, member: T) -> T:
        """Add a member; as a decorator, a class. A name that is taken is refused."""
        if member.name in self._members:
            raise self.error(f"There is a {self.what} {member.name!r} already. Register yours under another name.")
        self._members[member.name] = member
        return member

    def __getitem__(self, name: str) -> T:
        if name not in self._members:
            if name not in self._offered:
                raise self.error(unknown(self.what, name, self))
            self._members[name] = self._load(self._offered[name])
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._members or name in self._offered

    def __len__(self) -> int:
        return len({**self._members, **self._offered})

    def __iter__(self) -> Iterator[str]:
        return iter({**self._members, **self._offered})

    def values(self) -> list[T]:
        """All members; those of packages that can't be loaded are left out, with one warning each."""
        found = []
        for name in self:
            if name not in self._broken:
                try:
                    found.append(self[name])
                except self.error as problem:
                    self._broken.add(name)
                    warnings.warn(str(problem), stacklevel=2)
        return found

    @cached_property
    def _members(self) -> dict[str, T]:
        fill, self._fill = self._fill, None
        if fill:
            try:
                fill()
            except BaseException:
                self._fill = fill  # else the next look-up would find some of the members
                raise
        return self._registered

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        offered: dict[str, EntryPoint] = {}
        for point in sorted(entry_points(group=self.group), key=_package):
            if point.name in self._members or point.name in offered:
                owner = _package(offered[point.name]) if point.name in offered else "buildup"
                said = f"{self.what} {point.name!r} of {_package(point)} is left out: the one of {owner} has this name."
                warnings.warn(said, stacklevel=2)
            else:
                offered[point.name] = point
        return offered

    def _load(self, point: EntryPoint) -> T:
        try:
            member: T = point.load()
            if member.name == point.name:
                return member
            problem = f"it is named {member.name!r} there"
        except Exception as error:  # noqa: BLE001 - importing it runs the code of another package
            problem = f"{type(error).__name__}: {error}"
        raise self.error(f"{self.what} {point.name!r} of {_package(point)} ({point.value}) can't be loaded: {problem}.")


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package without a name"
