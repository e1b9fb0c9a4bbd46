"""Exceptions from the chosen method for single groups, named by pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from onnxmerge.errors import UsageError
from onnxmerge.units.layout import Typing

SHARES: Mapping[str, float] = {"act-align": 0.0, "rebasin": 1.0}
"""The share of weight space that a method stands for."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """How the groups that ``match`` names are matched, where it differs from the rest.

    ``match`` is a shell pattern of a group's id, or of an initializer in which its units stand. ``pin`` leaves its
    units in their order. ``method`` act-align compares its activations alone and rebasin its weights alone; ``alpha``
    is the share of weights between these. The last rule that names a group holds.
    """

    match: str
    pin: bool = False
    method: Literal["act-align", "rebasin"] | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        given = [self.pin, self.method is not None, self.alpha is not None]
        if sum(given) != 1:
            raise UsageError(f"rule for groups {self.match!r}: expected one of pin, method and alpha")
        if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
            raise UsageError(f"rule for groups {self.match!r}: alpha must lie between 0 and 1, found {self.alpha}")

    @property
    def share(self) -> float | None:
        """The share of weight space; None for a group that is pinned."""
        return SHARES[self.method] if self.method is not None else self.alpha


@dataclass(frozen=True, slots=True)
class Overrides:
    """Spaces that stay in their order, and shares of weight space by space."""

    pinned: frozenset[str] = frozenset()
    shares: Mapping[str, float] = field(default_factory=dict)


def overrides(rules: Sequence[GroupRule], typing: Typing) -> Overrides:
    """What the rules say of each free space. Raises UsageError for a rule that names none."""
    names = _names(typing)
    pinned, shares = set[str](), dict[str, float]()
    for rule in rules:
        for space in _named(rule.match, names, f"rule for groups {rule.match!r}"):
            pinned.discard(space)
            shares.pop(space, None)
            if rule.share is None:
                pinned.add(space)
            else:
                shares[space] = rule.share
    return Overrides(frozenset(pinned), shares)


def spaces_named(pattern: str, typing: Typing, what: str) -> list[str]:
    """The free spaces that a pattern names; ``what`` says in messages where it stands. Raises UsageError for none."""
    return _named(pattern, _names(typing), what)


def _named(pattern: str, names: Mapping[str, set[str]], what: str) -> list[str]:
    if pattern in names:  # an initializer may be called as a group is
        return [pattern]
    found = [space for space, known in names.items() if any(fnmatchcase(each, pattern) for each in known)]
    if not found:
        raise UsageError(
            f"{what}: no group has that name and none stands in such an initializer; see `onnxmerge inspect`"
        )
    return found


def _names(typing: Typing) -> dict[str, set[str]]:
    """What each free space may be called: its id, and the initializers in which it stands."""
    names = {space.id: {space.id} for space in typing.spaces.values() if space.free}
    for layout in typing.initializers.values():
        for block in layout.blocks:
            for space in block.spaces:
                if space in names:
                    names[space].add(layout.name)
    return names
