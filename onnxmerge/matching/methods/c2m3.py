"""C2M3: all models are matched at once, by weights and activations (Crisostomi et al., NeurIPS 2024)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import NumberOrAuto, number
from onnxmerge.errors import UsageError
from onnxmerge.executor import HERE
from onnxmerge.matching.joint import joint_sweep
from onnxmerge.matching.method import (
    Matcher,
    MatchProblem,
    MatchResult,
    compared_together,
    depending,
    notes_on,
    restarts,
    search_of,
    shares_of,
    with_twins_told_apart,
)
from onnxmerge.matching.objective import ObjectiveFunction
from onnxmerge.matching.options import OBJECTIVE, Rules, share_of_weights
from onnxmerge.matching.similarity import Objective
from onnxmerge.matching.sweeps import Sweeps, by_activations, sweep
from onnxmerge.matching.universe import ModelsToJoin, Universe, first_universe, model_similarity, relative
from onnxmerge.units.permutations import Permutations, identity


@dataclass(frozen=True, slots=True, kw_only=True)
class C2m3(Rules):
    """``objective`` inner is for ``alpha`` 1: inner products do not mix with activations."""

    alpha: NumberOrAuto = field(default=0.5, metadata=share_of_weights())
    objective: Objective = field(default="correlation", metadata=OBJECTIVE)

    def __post_init__(self) -> None:
        Rules.__post_init__(self)
        if self.objective == "inner" and self.alpha != 1.0:
            raise UsageError("--objective inner: inner products do not mix with activations; use it with --alpha 1")


def c2m3(problem: MatchProblem, options: C2m3) -> MatchResult:
    """Match all models at once to a universe of units (see ``matching.joint``)."""
    started, alpha = time.perf_counter(), number(options.alpha, "alpha")
    overrides = options.overrides(problem.typing)
    plan, known, cached = compared_together(problem, overrides, alpha)
    shares = with_twins_told_apart(shares_of(plan, alpha, known, overrides), known)
    models = ModelsToJoin(plan, cached, known, shares, options.objective)
    with np.errstate(invalid="ignore", over="ignore"):
        before = model_similarity(models, tuple(identity(plan.spaces) for _ in cached))
        found = _best_universe(models, problem, alpha)
    notes = notes_on(plan, models.alphas, overrides, activations=alpha < 1.0)
    return MatchResult(
        tuple(relative(found.matching, 0, other, plan) for other in range(1, len(cached))),
        searches=(search_of(found, before, started, notes),),
    )


def _best_universe(models: ModelsToJoin, problem: MatchProblem, alpha: float) -> Sweeps[Universe]:
    plan, executor = models.plan, problem.executor if len(models.pairs) > 1 else HERE
    found = executor.map(_Matching(models, alpha, problem.seed, problem.max_sweeps), models.pairs)
    start, rng = (
        first_universe(models, dict(zip(models.pairs, found, strict=True))),
        np.random.default_rng(problem.seed),
    )
    count = restarts(plan, tuple(plan.groups), len(models.weights))
    every = [joint_sweep(models, start, plan.groups, rng=rng, max_sweeps=problem.max_sweeps) for _ in range(count)]
    return max(every, key=lambda sweeps: sweeps.similarity.total)


@dataclass(frozen=True, slots=True, eq=False)
class _Matching:
    """The work of matching pairs of models, each by itself: which two go in."""

    models: ModelsToJoin
    alpha: float
    seed: int
    max_sweeps: int

    def open(self) -> Callable[[tuple[int, int]], Sweeps[Permutations]]:
        """Nothing is to be got ready."""
        plan = self.models.plan

        def matched(places: tuple[int, int]) -> Sweeps[Permutations]:
            pair = self.models.pair(*places)
            start = by_activations(pair) if self.alpha < 1.0 else identity(plan.spaces)
            roots = depending(plan, pair.alphas, self.alpha)
            # Every pair takes groups in the same random order: whichever model comes first, the pair is matched alike.
            rng = np.random.default_rng(self.seed)
            return sweep(ObjectiveFunction(pair), start, roots, rng=rng, max_sweeps=self.max_sweeps)

        return matched


METHOD = Matcher(
    name="c2m3",
    summary="all models at once, to a universe of units (C2M3)",
    source="Crisostomi et al., arXiv 2405.17897",
    needs=("weights", "activations"),
    match=c2m3,
    options=C2m3,
    all_pairs=True,
    least_models=3,
    rank=7,
)
