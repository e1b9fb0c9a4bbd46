"""c2m3 as a method: all models are matched at once, by weights and activations."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from onnxmerge.errors import UsageError
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.joint import joint_sweep
from onnxmerge.matching.method import (
    MatchOptions,
    MatchProblem,
    MatchResult,
    depending,
    notes_on,
    require_weights_only,
    restarts,
    search_of,
    shares_of,
    with_twins_told_apart,
    without_activations,
)
from onnxmerge.matching.objective import ObjectiveFunction
from onnxmerge.matching.similarity import PairOfModels, known_activations
from onnxmerge.matching.sweeps import Sweeps, by_activations, sweep
from onnxmerge.matching.universe import ModelsToJoin, Universe, first_universe, model_similarity, relative
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import Permutations, identity


@dataclass(frozen=True, slots=True)
class JointMethod:
    """A method that matches all models to a universe of units (see ``matching.joint``)."""

    name: str
    summary: str

    def __call__(self, problem: MatchProblem, options: MatchOptions) -> MatchResult:
        """Match all models at once. Raises UsageError where options and method contradict each other."""
        started = time.perf_counter()
        self.check(options)
        plan = make_plan(problem.typing, options.overrides.pinned)
        compared = options.alpha < 1.0
        if not compared:
            require_weights_only(self.name, options.overrides)
        if compared and plan.groups and problem.together is None:
            raise without_activations(self.name)
        seen = (problem.together if compared else None) or {}
        known = known_activations(plan, seen, len(problem.weights))
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        shares = with_twins_told_apart(shares_of(plan, options.alpha, known, options.overrides), known)
        models = ModelsToJoin(plan, cached, known, shares, options.objective)
        with np.errstate(invalid="ignore", over="ignore"):
            before = model_similarity(models, tuple(identity(plan.spaces) for _ in cached))
            found = _best_universe(models, options)
        notes = notes_on(plan, models.alphas, options.overrides, activations=compared)
        return MatchResult(
            self.name,
            permutations=tuple(relative(found.matching, 0, other, plan) for other in range(1, len(cached))),
            searches=(search_of(found, before, started, notes),),
        )

    def check(self, options: MatchOptions) -> None:
        """Raise UsageError for an alpha that is no share, or inner products mixed with activations."""
        if not 0.0 <= options.alpha <= 1.0:
            raise UsageError(f"method {self.name}: alpha must lie from 0 to 1, found {options.alpha}")
        if options.objective == "inner" and options.alpha != 1.0:
            raise UsageError(
                f"method {self.name}: inner products do not mix with activations; use correlation, or alpha 1"
            )


def _best_universe(models: ModelsToJoin, options: MatchOptions) -> Sweeps[Universe]:
    plan = models.plan

    def match(pair: PairOfModels) -> Sweeps[Permutations]:
        start = by_activations(pair) if options.alpha < 1.0 else identity(plan.spaces)
        roots = depending(plan, pair.alphas, options.alpha)
        # Every pair takes groups in the same random order: whichever model comes first, the pair is matched alike.
        return sweep(
            ObjectiveFunction(pair),
            start,
            roots,
            rng=np.random.default_rng(options.seed),
            max_sweeps=options.max_sweeps,
        )

    start, rng = first_universe(models, match), np.random.default_rng(options.seed)
    count = restarts(plan, tuple(plan.groups), len(models.weights))
    found = [joint_sweep(models, start, plan.groups, rng=rng, max_sweeps=options.max_sweeps) for _ in range(count)]
    return max(found, key=lambda sweeps: sweeps.similarity.total)
