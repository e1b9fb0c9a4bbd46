"""Methods that align every other model to the first, each by itself: by weights, activations or both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.executor import HERE
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.method import (
    MatchProblem,
    MatchResult,
    Search,
    depending,
    notes_on,
    require_weights_only,
    restarts,
    search_of,
    shares_of,
    with_twins_told_apart,
    without_activations,
)
from onnxmerge.matching.objective import ObjectiveFunction, matched_activations
from onnxmerge.matching.overrides import Overrides
from onnxmerge.matching.products import ProductsOfPair
from onnxmerge.matching.similarity import Objective, PairOfModels, known_activations
from onnxmerge.matching.sweeps import Sweeps, by_activations, by_signatures, by_weights, sweep
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import Permutations, identity

PROMISING = 0.8
"""A start with less than this share of the objective that was found elsewhere is not climbed from."""

RELATED = 0.5
"""Units of permuted copies and of fine-tunes correlate by more than this in the mean, with their partners by
activations; those of models that were trained apart by less or little more."""


def align(
    problem: MatchProblem,
    overrides: Overrides,
    alpha: float,
    *,
    objective: Objective = "correlation",
) -> MatchResult:
    """Match every other model to the first; ``alpha`` is the share of weights in what is compared.

    Raises UsageError where rules or problem do not fit ``alpha``.
    """
    compared, others = alpha < 1.0, range(len(problem.weights) - 1)
    if not compared:
        require_weights_only(overrides)
    elif len(problem.activations) != len(others):
        raise without_activations()
    executor = problem.executor if len(others) > 1 else HERE
    found = list(executor.map(_Aligning(problem, overrides, alpha, objective), others))
    permutations, searches = zip(*found, strict=True)
    return MatchResult(permutations, searches=searches)


@dataclass(frozen=True, slots=True, eq=False)
class _Aligning:
    """The work of aligning models to the first: what goes in is which of the others."""

    problem: MatchProblem
    overrides: Overrides
    alpha: float
    objective: Objective

    def open(self) -> Callable[[int], tuple[Permutations, Search]]:
        """Find the groups of units; weights of the first model are kept from one pair to the next."""
        problem, alpha, overrides, compared = self.problem, self.alpha, self.overrides, self.alpha < 1.0
        first, plan = (
            CachedWeights(problem.weights[0], problem.cache_bytes),
            make_plan(problem.typing, overrides.pinned),
        )

        def aligned(index: int) -> tuple[Permutations, Search]:
            weights = CachedWeights(problem.weights[index + 1], problem.cache_bytes)
            started = time.perf_counter()
            known = known_activations(plan, problem.activations[index] if compared else {})
            shares = with_twins_told_apart(shares_of(plan, alpha, known, overrides), known)
            kept = ProductsOfPair(plan, first, weights)
            objective_of = ObjectiveFunction(PairOfModels(plan, first, weights, known, shares, self.objective, kept))
            # Weights that are not finite end in the error of ``assign``, which names their space, not in warnings.
            with np.errstate(invalid="ignore", over="ignore"):
                before = objective_of(identity(plan.spaces))
                sweeps = _match(objective_of, alpha, problem, np.random.default_rng([problem.seed, index]))
            notes = notes_on(plan, shares, overrides, activations=compared)
            return sweeps.matching, search_of(sweeps, before, started, notes)

        return aligned


def _match(
    objective_of: ObjectiveFunction, alpha: float, problem: MatchProblem, rng: np.random.Generator
) -> Sweeps[Permutations]:
    pair = objective_of.pair
    starts = [by_activations(pair)] if alpha < 1.0 else [by_weights(pair), identity(pair.plan.spaces)]
    roots = depending(pair.plan, pair.alphas, alpha)
    found = _best_sweeps(objective_of, starts, roots, problem, rng)
    if not roots or (alpha < 1.0 and _trained_apart(pair, starts[0])):
        return found
    return _from_signatures(objective_of, found, roots, problem, rng)


def _trained_apart(pair: PairOfModels, start: Permutations) -> bool:
    """Whether units matched by activations do other things in both models, those left out that do nothing."""
    matched = np.concatenate([matched_activations(pair, name, start) for name in pair.activations] or [np.zeros(0)])
    return bool(np.any(matched)) and float(matched[matched != 0].mean()) < RELATED


def _best_sweeps(
    objective_of: ObjectiveFunction,
    starts: Sequence[Permutations],
    roots: Sequence[str],
    problem: MatchProblem,
    rng: np.random.Generator,
) -> Sweeps[Permutations]:
    """Sweeps from each start, from the last in several random orders; the best objective, the first among equals.

    Coordinate ascent ends where its order leads it, so where groups are small another order is cheap and worth it.
    Where they are large, only the first start is climbed from, and others that are promising: so is the order in which
    a model stands if it is a fine-tune of the first, or of one base with it.
    """
    *others, last = starts
    rounds = restarts(objective_of.pair.plan, roots)
    found: list[Sweeps[Permutations]] = []
    for start in (*others, *[last] * rounds):
        if found and rounds == 1 and objective_of(start).total < PROMISING * max(map(_total, found)):
            continue
        found.append(sweep(objective_of, start, roots, rng=rng, max_sweeps=problem.max_sweeps))
    return max(found, key=_total)


def _total(sweeps: Sweeps[Permutations]) -> float:
    return sweeps.similarity.total


def _from_signatures(
    objective_of: ObjectiveFunction,
    found: Sweeps[Permutations],
    roots: Sequence[str],
    problem: MatchProblem,
    rng: np.random.Generator,
) -> Sweeps[Permutations]:
    """What was ``found``, or sweeps from what signatures say where that is promising and leads to a better objective.

    Coordinate ascent by weights can end far from a permuted copy of a model; signatures begin beside it. Of models that
    were trained apart they say little, which is seen before a unit is assigned.
    """
    start = by_signatures(objective_of.pair)
    if start is None or objective_of(start).total < PROMISING * found.similarity.total:
        return found
    climbed = sweep(objective_of, start, roots, rng=rng, max_sweeps=problem.max_sweeps)
    return climbed if climbed.similarity.total > found.similarity.total else found
