"""The options that matching methods have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from onnxmerge.contracts import Described, Options, described
from onnxmerge.matching.overrides import GroupRule, Overrides, overrides
from onnxmerge.matching.similarity import Objective
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.units.layout import Typing

GRID = tuple(step / 10 for step in range(1, 10))
"""Shares of weight space between the ends."""

OBJECTIVE = described("Similarity in weight space", words=get_args(Objective), alone=True)
"""``correlation``, or ``inner`` for the inner product of the papers."""


def share_of_weights(**instead: str) -> Mapping[str, Described]:
    """What an option ``alpha`` is; ``activations`` and ``weights`` name the methods that look at one of them alone."""
    ends = {end: instead[kind] for end, kind in ((0.0, "activations"), (1.0, "weights")) if kind in instead}
    help_ = "Weight of weight-space similarity; auto tries 0, 0.1, ... 1"
    return described(help_, least=0, most=1, auto=True, tried=GRID, instead=ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Options):
    """Options of a method that matches units: ``groups`` are exceptions for single groups."""

    groups: tuple[GroupRule, ...] = field(
        default=(), metadata=described("Exceptions for single groups, by pattern", written=True)
    )

    def overrides(self, typing: Typing) -> Overrides:
        """What they say of each free space. Raises UsageError for a rule that names none."""
        return overrides(self.groups, typing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zips(Rules):
    """Options of a method that zips: a and b of the paper (see ``ZipRule``)."""

    zip_a: float = field(
        default=0.5, metadata=described("What the similarity of units already merged is multiplied by", least=0, most=1)
    )
    zip_b: float = field(
        default=1.0,
        metadata=described("Share of its merges that a model may use up inside itself", least=0, most=1),
    )

    zip_unit: str = field(
        default="mean",
        metadata=described(
            "What a merged unit is: the mean of its members, or one of them for all (with --refine ls)",
            words=("mean", "member"),
        ),
    )

    @property
    def rule(self) -> ZipRule:
        """What is merged with what."""
        return ZipRule(self.zip_a, self.zip_b)
