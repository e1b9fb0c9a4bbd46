"""The matching methods by name.

Some align every other model to the first, each by itself, so with more than two models it matters which is the first
(with ``joint_method`` it does not). average: no matching. rebasin: weights alone (Git Re-Basin, arXiv 2209.04836).
act-align: activations alone, one pass. mudsc-align: both (MuDSC, arXiv 2403.01753).

The others zip the units of all models together. zipit: activations alone, one pass (ZipIt!, arXiv 2305.03053).
weight-zip: weights alone. mudsc-zip: both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Typing
from onnxmerge.axes.resize import Widths
from onnxmerge.errors import UsageError
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.objective import Likeness, measure
from onnxmerge.matching.overrides import Overrides
from onnxmerge.matching.plan import Plan, make_plan
from onnxmerge.matching.similarity import (
    ActivationSimilarity,
    Objective,
    PairOfModels,
    known_activations,
    weight_shares,
)
from onnxmerge.matching.sweeps import Sweeps, by_activations, by_weights, sweep
from onnxmerge.matching.zip_similarity import ModelsToZip, measure_zip
from onnxmerge.matching.zip_sweeps import unmoved_zip, zip_by_activations, zip_by_weights, zip_sweep
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.merging.combine import Matchings
from onnxmerge.merging.transport import Permutations, composite_shape, identity
from onnxmerge.merging.zip_transport import Zipped

MAX_RESTARTS = 8
RESTART_BUDGET = 10**8
"""Cubed units, summed over groups, that all restarts together may cost: about a second of assignments."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchProblem:
    """Models of one structure. ``weights[m]`` are keyed by the first model's names and may be lazy.

    ``activations[m - 1]`` compares the first model with model m, ``together`` (for zip) the units of all models, model
    after model; both are empty where no activations were gathered. ``shares`` are the models' shares in the merged
    units where these are not equal: a zip compares units by the neighbours that merging will give them.
    """

    typing: Typing
    weights: Sequence[Mapping[str, NDArray[Any]]]
    activations: Sequence[ActivationSimilarity] = ()
    together: ActivationSimilarity = field(default_factory=dict)
    shares: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """``alpha`` is the share of weight space where both are looked at; ``objective`` the similarity in weight space.

    ``zip`` bounds what is merged with what, ``widths`` says of how many merged units a zip makes plain spaces;
    ``overrides`` are exceptions for single spaces. ``cache_bytes`` bounds the memory for initializers that are kept
    between sweeps, for each model.
    """

    alpha: float = 0.5
    objective: Objective = "correlation"
    seed: int = 0
    max_sweeps: int = 50
    zip: ZipRule = field(default_factory=ZipRule)
    widths: Widths = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    cache_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMatch(Search):
    """How one model was matched to the first."""

    permutations: Permutations


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipMatch(Search):
    """How all models were zipped together."""

    zipped: Zipped


@dataclass(frozen=True, slots=True, kw_only=True)
class JointMatch(Search):
    """How all models were matched at once: ``permutations`` bring each but the first to the first."""

    permutations: tuple[Permutations, ...]


@dataclass(frozen=True, slots=True)
class MatchResult:
    """``matches[m - 1]`` brings model m to the first; there are none where all were matched (``joint``) or zipped.

    ``apart`` is the same as a zip of more units, where some of those that were matched are not to be merged.
    """

    method: str
    matches: tuple[ModelMatch, ...] = ()
    zip_match: ZipMatch | None = None
    joint: JointMatch | None = None
    apart: Zipped | None = None

    @property
    def permutations(self) -> tuple[Permutations, ...]:
        """One for each other model."""
        return self.joint.permutations if self.joint is not None else tuple(each.permutations for each in self.matches)

    @property
    def matchings(self) -> Matchings:
        """What ``combine`` merges by."""
        if self.apart is not None:
            return self.apart
        return self.permutations if self.zip_match is None else self.zip_match.zipped

    @property
    def searches(self) -> tuple[Search, ...]:
        together = self.joint if self.zip_match is None else self.zip_match
        return self.matches if together is None else (together,)


@dataclass(frozen=True, slots=True)
class Method:
    """An align method: which similarities it looks at. The share ``alpha`` is None where the user chooses it."""

    name: str
    summary: str
    alpha: float | None
    matched: bool = True

    @property
    def needs_activations(self) -> bool:
        return self.matched and self.alpha != 1.0

    @property
    def zips(self) -> bool:
        return False

    def __call__(self, problem: MatchProblem, options: MatchOptions) -> MatchResult:
        """Match every other model to the first. Raises UsageError where options and method contradict each other."""
        alpha = _share(self.name, self.alpha, options)
        plan = make_plan(problem.typing, options.overrides.pinned)
        if not self.needs_activations:
            require_weights_only(self.name, options.overrides)
        others = len(problem.weights) - 1
        activations = problem.activations if self.needs_activations else [{}] * others
        if len(activations) != others or (self.needs_activations and plan.groups and not all(activations)):
            raise without_activations(self.name)
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        matches = []
        for index, (weights, seen) in enumerate(zip(cached[1:], activations, strict=True)):
            known = known_activations(plan, seen)
            shares = shares_of(plan, alpha, known, options.overrides)
            pair = PairOfModels(plan, cached[0], weights, known, shares, options.objective)
            # Weights that are not finite end in the error of ``assign``, which names their space, not in warnings.
            with np.errstate(invalid="ignore", over="ignore"):
                matches.append(self._match(pair, alpha, options, np.random.default_rng([options.seed, index])))
        return MatchResult(self.name, tuple(matches))

    def _match(self, pair: PairOfModels, alpha: float, options: MatchOptions, rng: np.random.Generator) -> ModelMatch:
        started = time.perf_counter()
        unmoved = identity(pair.plan.spaces)
        before = measure(pair, unmoved)
        if self.matched:
            starts = [by_activations(pair)] if self.needs_activations else [unmoved, by_weights(pair)]
            roots = depending(pair.plan, pair.alphas, alpha)
            found = _best_sweeps(pair, starts, roots, options, rng)
        else:
            found = _unmatched(unmoved, before)
        return ModelMatch(
            permutations=found.matching,
            similarity_before=before.mean,
            similarity_after=found.likeness.mean,
            objective=found.objective,
            changed=found.changed,
            converged=found.converged,
            seconds=time.perf_counter() - started,
            notes=notes_on(pair.plan, pair.alphas, options.overrides, activations=self.needs_activations),
        )


@dataclass(frozen=True, slots=True)
class ZipMethod:
    """A zip method: which similarities it looks at. The share ``alpha`` is None where the user chooses it."""

    name: str
    summary: str
    alpha: float | None

    @property
    def needs_activations(self) -> bool:
        return self.alpha != 1.0

    @property
    def zips(self) -> bool:
        return True

    def __call__(self, problem: MatchProblem, options: MatchOptions) -> MatchResult:
        """Zip all models together. Raises UsageError where options and method contradict each other."""
        started = time.perf_counter()
        alpha = _share(self.name, self.alpha, options)
        if options.objective == "inner":
            raise UsageError(f"method {self.name} compares by correlation; inner products are for rebasin")
        plan = make_plan(problem.typing, options.overrides.pinned)
        if not self.needs_activations:
            require_weights_only(self.name, options.overrides)
        if self.needs_activations and plan.groups and not problem.together:
            raise without_activations(self.name)
        known = known_activations(plan, problem.together if self.needs_activations else {}, len(problem.weights))
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        shares = shares_of(plan, alpha, known, options.overrides)
        typing = replace(problem.typing, spaces=plan.spaces)
        models = ModelsToZip(plan, typing, cached, known, shares, problem.shares, options.widths)
        rng = np.random.default_rng(options.seed)
        with np.errstate(invalid="ignore", over="ignore"):
            unmoved = unmoved_zip(models)
            start = (zip_by_activations if self.needs_activations else zip_by_weights)(models, options.zip)
            roots = depending(plan, shares, alpha)
            found = zip_sweep(models, start, roots, options.zip, rng=rng, max_sweeps=options.max_sweeps)
            before = measure_zip(models, unmoved)
        match = ZipMatch(
            zipped=found.matching,
            similarity_before=before.mean,
            similarity_after=found.likeness.mean,
            objective=found.objective,
            changed=found.changed,
            converged=found.converged,
            seconds=time.perf_counter() - started,
            notes=notes_on(plan, shares, options.overrides, activations=self.needs_activations),
        )
        return MatchResult(self.name, zip_match=match)


def _share(method: str, alpha: float | None, options: MatchOptions) -> float:
    """The share of weight space: the method's own, or the user's."""
    if options.objective == "inner" and alpha != 1.0:
        raise UsageError(f"method {method}: inner products do not mix with activations; use correlation")
    if alpha is not None:
        return alpha
    if not 0.0 < options.alpha < 1.0:
        ends = "zipit, 1 is weight-zip" if method.endswith("zip") else "act-align, 1 is rebasin"
        raise UsageError(
            f"method {method}: alpha must lie between 0 and 1, found {options.alpha}; 0 is the method {ends}"
        )
    return options.alpha


def shares_of(plan: Plan, alpha: float, known: ActivationSimilarity, overrides: Overrides) -> dict[str, float]:
    """The share of weight space for each matched space: the user's exceptions hold where activations were seen."""
    shares = weight_shares(plan, alpha, known)
    seen = weight_shares(plan, 0.0, known)
    excepted = {name: share for name, share in overrides.shares.items() if seen.get(name) == 0.0}
    return {**shares, **excepted}


def require_weights_only(method: str, overrides: Overrides) -> None:
    """Raise UsageError for a rule that asks for activations where the method does not look at them."""
    asking = [name for name, share in overrides.shares.items() if share < 1.0]
    if asking:
        raise UsageError(
            f"method {method} does not look at activations, but a rule for {asking[0]} does; choose mudsc-align "
            "and give the other groups alpha 1"
        )


def depending(plan: Plan, alphas: Mapping[str, float], alpha: float) -> list[str]:
    """The groups to sweep over.

    With activations alone nothing depends on the neighbours, except where weights had to stand in for them.
    """
    return [
        root for root, group in plan.groups.items() if alpha > 0.0 or any(alphas[name] > 0.0 for name in group.members)
    ]


def without_activations(method: str) -> UsageError:
    """What to raise where a method misses them."""
    return UsageError(f"method {method} compares activations: give calibration data (--calib)")


def _best_sweeps(
    pair: PairOfModels,
    starts: Sequence[Permutations],
    roots: Sequence[str],
    options: MatchOptions,
    rng: np.random.Generator,
) -> Sweeps[Permutations]:
    """Sweeps from each start, from the first in several random orders; the best objective, the first among equals.

    Coordinate ascent ends where its order leads it, so where groups are small another order is cheap and worth it.
    """
    first, *others = starts
    every = [first] * restarts(pair.plan, roots) + others
    found = [sweep(pair, start, roots, rng=rng, max_sweeps=options.max_sweeps) for start in every]
    return max(found, key=lambda sweeps: sweeps.likeness.total)


def restarts(plan: Plan, roots: Sequence[str], models: int = 1) -> int:
    """How many random orders to try, by what a sweep costs that assigns the units of so many models."""
    cost = models * sum(_units(plan, root) ** 3 for root in roots)
    return min(max(RESTART_BUDGET // max(cost, 1), 1), MAX_RESTARTS) if roots else 1


def _units(plan: Plan, root: str) -> int:
    """Units of a group, inner ones counted in every outer one: an assignment costs their cube."""
    return max(math.prod(composite_shape(name, plan.spaces)) for name in plan.groups[root].members)


def _unmatched(unmoved: Permutations, before: Likeness) -> Sweeps[Permutations]:
    return Sweeps(unmoved, before, (before.total,), (), converged=True)


def notes_on(plan: Plan, alphas: Mapping[str, float], overrides: Overrides, *, activations: bool) -> tuple[str, ...]:
    """What the user should know: spaces that were left alone, and those matched by weights for want of activations."""
    notes = [f"space {name} was left alone: {reason}" for name, reason in plan.skipped.items()]
    unseen = [name for name, alpha in alphas.items() if alpha == 1.0 and name not in overrides.shares]
    if activations and unseen:
        notes.append(f"no activations were seen of {', '.join(unseen)}: matched by weights instead")
    return tuple(notes)


MATCHERS: Mapping[str, Method | ZipMethod] = {
    method.name: method
    for method in (
        Method("average", "no matching: the plain average", 1.0, matched=False),
        Method("rebasin", "weights alone (Git Re-Basin)", 1.0),
        Method("act-align", "activations alone, one pass", 0.0),
        Method("mudsc-align", "weights and activations (MuDSC)", None),
        ZipMethod("zipit", "zip by activations alone, one pass (ZipIt!)", 0.0),
        ZipMethod("weight-zip", "zip by weights alone", 1.0),
        ZipMethod("mudsc-zip", "zip by weights and activations (MuDSC)", None),
    )
}
