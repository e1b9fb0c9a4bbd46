"""Methods that align every other model to the first, each by itself: by weights, activations or both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.method import (
    MatchOptions,
    MatchProblem,
    MatchResult,
    Search,
    depending,
    notes_on,
    require_weights_only,
    restarts,
    search_of,
    share_of,
    shares_of,
    with_twins_told_apart,
    without_activations,
)
from onnxmerge.matching.objective import ModelSimilarity, ObjectiveFunction
from onnxmerge.matching.similarity import PairOfModels, known_activations
from onnxmerge.matching.sweeps import Sweeps, by_activations, by_signatures, by_weights, sweep
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import Permutations, identity

PROMISING = 0.8
"""A start with less than this share of the objective that was found elsewhere is not climbed from."""


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
        alpha = share_of(self.name, self.alpha, options)
        plan = make_plan(problem.typing, options.overrides.pinned)
        if not self.needs_activations:
            require_weights_only(self.name, options.overrides)
        others = len(problem.weights) - 1
        activations = problem.activations if self.needs_activations else [{}] * others
        if len(activations) != others:
            raise without_activations(self.name)
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        matches = []
        for index, (weights, seen) in enumerate(zip(cached[1:], activations, strict=True)):
            known = known_activations(plan, seen)
            shares = with_twins_told_apart(shares_of(plan, alpha, known, options.overrides), known)
            pair = PairOfModels(plan, cached[0], weights, known, shares, options.objective)
            # Weights that are not finite end in the error of ``assign``, which names their space, not in warnings.
            with np.errstate(invalid="ignore", over="ignore"):
                matches.append(self._match(pair, alpha, options, np.random.default_rng([options.seed, index])))
        permutations, searches = zip(*matches, strict=True)
        return MatchResult(self.name, permutations, searches=searches)

    def _match(
        self, pair: PairOfModels, alpha: float, options: MatchOptions, rng: np.random.Generator
    ) -> tuple[Permutations, Search]:
        started = time.perf_counter()
        unmoved = identity(pair.plan.spaces)
        objective_of = ObjectiveFunction(pair)
        before = objective_of(unmoved)
        if self.matched:
            starts = [by_activations(pair)] if self.needs_activations else [unmoved, by_weights(pair)]
            roots = depending(pair.plan, pair.alphas, alpha)
            found = _best_sweeps(objective_of, starts, roots, options, rng)
            if roots:
                found = _from_signatures(objective_of, found, roots, options, rng)
        else:
            found = _unmatched(unmoved, before)
        notes = notes_on(pair.plan, pair.alphas, options.overrides, activations=self.needs_activations)
        return found.matching, search_of(found, before, started, notes)


def _best_sweeps(
    objective_of: ObjectiveFunction,
    starts: Sequence[Permutations],
    roots: Sequence[str],
    options: MatchOptions,
    rng: np.random.Generator,
) -> Sweeps[Permutations]:
    """Sweeps from each start, from the first in several random orders; the best objective, the first among equals.

    Coordinate ascent ends where its order leads it, so where groups are small another order is cheap and worth it.
    """
    first, *others = starts
    every = [first] * restarts(objective_of.pair.plan, roots) + others
    found = [sweep(objective_of, start, roots, rng=rng, max_sweeps=options.max_sweeps) for start in every]
    return max(found, key=lambda sweeps: sweeps.similarity.total)


def _from_signatures(
    objective_of: ObjectiveFunction,
    found: Sweeps[Permutations],
    roots: Sequence[str],
    options: MatchOptions,
    rng: np.random.Generator,
) -> Sweeps[Permutations]:
    """What was ``found``, or sweeps from what signatures say where that is promising and leads to a better objective.

    Coordinate ascent by weights can end far from a permuted copy of a model; signatures begin beside it. Of models that
    were trained apart they say little, which costs one measurement.
    """
    start = by_signatures(objective_of.pair)
    if objective_of(start).total < PROMISING * found.similarity.total:
        return found
    climbed = sweep(objective_of, start, roots, rng=rng, max_sweeps=options.max_sweeps)
    return climbed if climbed.similarity.total > found.similarity.total else found


def _unmatched(unmoved: Permutations, before: ModelSimilarity) -> Sweeps[Permutations]:
    return Sweeps(unmoved, before, (before.total,), (), converged=True)
