"""What a matching method is, what it takes and gives, and what methods have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from onnxmerge.contracts import Contract, O, describe, in_words, number
from onnxmerge.errors import UsageError
from onnxmerge.executor import HERE, Executor
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.objective import ModelSimilarity
from onnxmerge.matching.overrides import Overrides
from onnxmerge.matching.similarity import (
    ActivationSimilarity,
    has_twins,
    known_activations,
    weight_shares,
)
from onnxmerge.matching.sweeps import Sweeps
from onnxmerge.types import Floats
from onnxmerge.units.groups import Plan, make_plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import Permutations, composite_shape, is_still
from onnxmerge.units.resize import Widths
from onnxmerge.units.zips import Matchings, Zipped

MAX_RESTARTS = 8
RESTART_BUDGET = 10**8
"""Cubed units, summed over groups, that all restarts together may cost: about a second of assignments."""


TIE_BREAK = 1e-4
"""The share of weight space where activations leave a choice: more than their last digit, less than what they tell."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchProblem:
    """Models of one structure. ``weights[m]`` are keyed by the first model's names and may be lazy.

    ``activations[m - 1]`` compares the first model with model m, ``together`` the units of all models, model after
    model; without activations both are left out, and a space that is in neither was not seen. ``deviations`` are of the
    units [n] of each model, by space, where they were seen. ``shares`` are the models' shares in the merged units where
    these are not equal: a zip compares units by the neighbours that merging will give them. ``widths`` says of how many
    merged units a zip makes plain spaces. ``cache_bytes`` bounds the memory for initializers that are kept between
    sweeps, for each model. ``executor`` runs what does not depend on each other: pairs of models.
    """

    typing: Typing
    weights: Sequence[Mapping[str, NDArray[Any]]]
    activations: Sequence[ActivationSimilarity] = ()
    together: ActivationSimilarity | None = None
    deviations: Sequence[Mapping[str, Floats]] = ()
    shares: Sequence[float] | None = None
    widths: Widths = field(default_factory=dict)
    seed: int = 0
    max_sweeps: int = 50
    cache_bytes: int = 1 << 30
    executor: Executor = HERE


@dataclass(frozen=True, slots=True)
class Search:
    """How one search for a matching went.

    ``similarity_before`` and ``similarity_after`` are mean similarities of matched units by space, under the identity
    and under what was found. For the histories see ``Sweeps``.
    """

    similarity_before: Mapping[str, float]
    similarity_after: Mapping[str, float]
    objective: tuple[float, ...]
    changed: tuple[int, ...]
    converged: bool
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def sweeps(self) -> int:
        return len(self.changed)


def search_of(found: Sweeps[Any], before: ModelSimilarity, started: float, notes: tuple[str, ...]) -> Search:
    """What a search found that began ``started`` (by ``time.perf_counter``)."""
    return Search(
        similarity_before=before.mean,
        similarity_after=found.similarity.mean,
        objective=found.objective,
        changed=found.changed,
        converged=found.converged,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class MatchResult:
    """``permutations[m - 1]`` bring model m to the first, or ``zipped`` says what becomes of the units of them all.

    Both, where of units that were matched some are not to be merged. ``searches`` has one entry for each model that
    was matched by itself, or one where all were matched at once.
    """

    permutations: tuple[Permutations, ...] = ()
    zipped: Zipped | None = None
    searches: tuple[Search, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether any unit comes to another place, or becomes one with another."""
        perms = (perm for each in self.permutations for perm in each.values())
        return self.zipped is not None or not all(map(is_still, perms))

    @property
    def matchings(self) -> Matchings:
        """What ``combine`` merges by."""
        return self.permutations if self.zipped is None else self.zipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher(Contract[O]):
    """A method that finds out which units of models correspond: ``match``, by its own options.

    ``zips``: units of one model may be merged with each other, so that they are not matched one to one, and groups can
    get another width. ``all_pairs``: it reads ``together``, not ``activations``. ``least_models``: with fewer it finds
    what others do, so that a search leaves it out. ``moves``: units may come to other places; of a method that leaves
    all where they are nothing need be proved. An option ``alpha`` is the share of weights in what is compared.
    """

    match: Callable[[MatchProblem, O], MatchResult]
    zips: bool = False
    all_pairs: bool = False
    least_models: int = 2
    moves: bool = True

    def __call__(self, problem: MatchProblem, options: O | None = None) -> MatchResult:
        """Match the units of all models. Raises UsageError where options and problem contradict each other."""
        found = self.match(problem, self.options() if options is None else options)
        if not self.moves and found.moves:
            raise ValueError(f"method {self.name} says that it moves no unit, and moved some: it must not say so")
        return found

    @property
    def mixes(self) -> bool:
        """Whether the user says how much weights count and how much activations."""
        return "alpha" in self.option_names

    def alpha(self, own: O) -> float | None:
        """The share of weight space in what is compared; None where it is not known.

        Raises UsageError as long as it is to be searched.
        """
        if self.mixes:
            return number(getattr(own, "alpha"), "alpha")  # noqa: B009 - not all options have it
        if set(self.needs) >= {"weights", "activations"}:
            return None
        return 0.0 if "activations" in self.needs else 1.0

    def compares_activations(self, own: O) -> bool:
        """Whether the method cannot do without calibration data."""
        return "activations" in self.needs and self.alpha(own) != 1.0

    @property
    def needed(self) -> str:
        """What it needs beside the models, as the command line calls it."""
        spared = self.mixes and 1.0 not in describe(self.options)["alpha"].instead
        return "--calib, unless --alpha 1" if spared else in_words(self.needs)


def shares_of(plan: Plan, alpha: float, known: ActivationSimilarity, overrides: Overrides) -> dict[str, float]:
    """The share of weight space for each matched space: the user's exceptions hold where activations were seen."""
    shares = weight_shares(plan, alpha, known)
    seen = weight_shares(plan, 0.0, known)
    excepted = {name: share for name, share in overrides.shares.items() if seen.get(name) == 0.0}
    return {**shares, **excepted}


def with_twins_told_apart(shares: Mapping[str, float], known: ActivationSimilarity) -> dict[str, float]:
    """The shares of an alignment, for which weights decide where activations alone leave a choice.

    Of units that the data never wakes, or wakes at one place only, any two are alike.
    """
    twins = {name for name, similarity in known.items() if shares.get(name) == 0.0 and has_twins(similarity)}
    return {name: TIE_BREAK if name in twins else share for name, share in shares.items()}


def require_weights_only(overrides: Overrides) -> None:
    """Raise UsageError for a rule that asks for activations where the method does not look at them."""
    asking = [name for name, share in overrides.shares.items() if share < 1.0]
    if asking:
        raise UsageError(
            f"the method does not look at activations, but a rule for {asking[0]} does; choose mudsc-align and give "
            "the other groups alpha 1"
        )


def depending(plan: Plan, alphas: Mapping[str, float], alpha: float) -> list[str]:
    """The groups to sweep over.

    With activations alone nothing depends on the neighbours, except where weights had to stand in for them.
    """
    return [
        root for root, group in plan.groups.items() if alpha > 0.0 or any(alphas[name] > 0.0 for name in group.members)
    ]


def without_activations() -> UsageError:
    """What to raise where a method misses them."""
    return UsageError("the method compares activations: give calibration data (--calib)")


def compared_together(
    problem: MatchProblem, overrides: Overrides, alpha: float
) -> tuple[Plan, ActivationSimilarity, list[CachedWeights]]:
    """The plan, what is known of all models' activations, and their weights, for a method that compares every pair."""
    plan = make_plan(problem.typing, overrides.pinned)
    if alpha == 1.0:
        require_weights_only(overrides)
    elif plan.groups and problem.together is None:
        raise without_activations()
    seen = (problem.together if alpha < 1.0 else None) or {}
    known = known_activations(plan, seen, len(problem.weights))
    return plan, known, [CachedWeights(weights, problem.cache_bytes) for weights in problem.weights]


def restarts(plan: Plan, roots: Sequence[str], models: int = 1) -> int:
    """How many random orders to try, by what a sweep costs that assigns the units of so many models."""
    cost = models * sum(_units(plan, root) ** 3 for root in roots)
    return min(max(RESTART_BUDGET // max(cost, 1), 1), MAX_RESTARTS) if roots else 1


def _units(plan: Plan, root: str) -> int:
    """Units of a group, inner ones counted in every outer one: an assignment costs their cube."""
    return max(math.prod(composite_shape(name, plan.spaces)) for name in plan.groups[root].members)


def notes_on(plan: Plan, alphas: Mapping[str, float], overrides: Overrides, *, activations: bool) -> tuple[str, ...]:
    """What the user should know: spaces that were left alone, and those matched by weights for want of activations."""
    notes = [f"space {name} was left alone: {reason}" for name, reason in plan.skipped.items()]
    unseen = [name for name, alpha in alphas.items() if alpha == 1.0 and name not in overrides.shares]
    if activations and unseen:
        notes.append(f"no activations were seen of {', '.join(unseen)}: matched by weights instead")
    twins = [name for name, alpha in alphas.items() if alpha == TIE_BREAK and name not in overrides.shares]
    if twins:
        notes.append(f"activations do not tell all units of {', '.join(twins)} apart: weights decide among equals")
    return tuple(notes)
