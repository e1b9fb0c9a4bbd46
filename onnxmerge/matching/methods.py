"""The matching methods by name. All align every other model to the first, each by itself.

average: no matching. rebasin: weights alone (Git Re-Basin, arXiv 2209.04836). act-align: activations alone, one pass.
mudsc-align: both (MuDSC, arXiv 2403.01753).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Typing
from onnxmerge.errors import UsageError
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.objective import Likeness, measure
from onnxmerge.matching.plan import make_plan
from onnxmerge.matching.similarity import (
    ActivationSimilarity,
    Objective,
    PairOfModels,
    known_activations,
    weight_shares,
)
from onnxmerge.matching.sweeps import Sweeps, by_activations, sweep
from onnxmerge.merging.transport import Permutations, identity


@dataclass(frozen=True, slots=True, eq=False)
class MatchProblem:
    """Models of one structure. ``weights[m]`` are keyed by the first model's names and may be lazy.

    ``activations[m - 1]`` compares the first model with model m; empty where no activations were gathered.
    """

    typing: Typing
    weights: Sequence[Mapping[str, NDArray[Any]]]
    activations: Sequence[ActivationSimilarity] = ()


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """``alpha`` is the share of weight space in mudsc-align; ``objective`` the similarity in weight space.

    ``cache_bytes`` bounds the memory for initializers that are kept between sweeps, for each model.
    """

    alpha: float = 0.5
    objective: Objective = "correlation"
    seed: int = 0
    max_sweeps: int = 50
    cache_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelMatch:
    """How one model was matched to the first.

    ``similarity_before`` and ``similarity_after`` are mean similarities of matched units by space, under the identity
    and under ``permutations``. For the histories see ``Sweeps``.
    """

    permutations: Permutations
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


@dataclass(frozen=True, slots=True)
class MatchResult:
    """``matches[m - 1]`` brings model m to the first."""

    method: str
    matches: tuple[ModelMatch, ...]

    @property
    def permutations(self) -> tuple[Permutations, ...]:
        """One for each other model."""
        return tuple(match.permutations for match in self.matches)


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

    def __call__(self, problem: MatchProblem, options: MatchOptions) -> MatchResult:
        """Match every other model to the first. Raises UsageError where options and method contradict each other."""
        alpha = self._share(options)
        plan = make_plan(problem.typing)
        others = len(problem.weights) - 1
        activations = problem.activations if self.needs_activations else [{}] * others
        if len(activations) != others or (self.needs_activations and plan.groups and not all(activations)):
            raise UsageError(f"method {self.name} compares activations: give calibration data (--calib)")
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        matches = []
        for index, (weights, seen) in enumerate(zip(cached[1:], activations, strict=True)):
            known = known_activations(plan, seen)
            shares = weight_shares(plan, alpha, known)
            pair = PairOfModels(plan, cached[0], weights, known, shares, options.objective)
            # Weights that are not finite end in the error of ``assign``, which names their space, not in warnings.
            with np.errstate(invalid="ignore", over="ignore"):
                matches.append(self._match(pair, alpha, options, np.random.default_rng([options.seed, index])))
        return MatchResult(self.name, tuple(matches))

    def _share(self, options: MatchOptions) -> float:
        if options.objective == "inner" and self.alpha != 1.0:
            raise UsageError(f"method {self.name}: inner products do not mix with activations; use correlation")
        if self.alpha is not None:
            return self.alpha
        if not 0.0 < options.alpha < 1.0:
            raise UsageError(
                f"method {self.name}: alpha must lie between 0 and 1, found {options.alpha}; "
                "0 is the method act-align, 1 is rebasin"
            )
        return options.alpha

    def _match(self, pair: PairOfModels, alpha: float, options: MatchOptions, rng: np.random.Generator) -> ModelMatch:
        started = time.perf_counter()
        unmoved = identity(pair.plan.spaces)
        before = measure(pair, unmoved)
        if self.matched:
            start = by_activations(pair) if self.needs_activations else unmoved
            # With activations alone nothing depends on the neighbours, except where weights had to stand in for them.
            roots = [
                root
                for root, group in pair.plan.groups.items()
                if alpha > 0.0 or any(pair.alphas[name] > 0.0 for name in group.members)
            ]
            found = sweep(pair, start, roots, rng=rng, max_sweeps=options.max_sweeps)
        else:
            found = _unmatched(unmoved, before)
        return ModelMatch(
            permutations=found.permutations,
            similarity_before=before.mean,
            similarity_after=found.likeness.mean,
            objective=found.objective,
            changed=found.changed,
            converged=found.converged,
            seconds=time.perf_counter() - started,
            notes=_notes(pair, self),
        )


def _unmatched(unmoved: Permutations, before: Likeness) -> Sweeps:
    return Sweeps(unmoved, before, (before.total,), (), converged=True)


def _notes(pair: PairOfModels, method: Method) -> tuple[str, ...]:
    notes = [f"space {name} was left alone: {reason}" for name, reason in pair.plan.skipped.items()]
    unseen = [name for name, alpha in pair.alphas.items() if alpha == 1.0]
    if method.needs_activations and unseen:
        notes.append(f"no activations were seen of {', '.join(unseen)}: matched by weights instead")
    return tuple(notes)


MATCHERS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("average", "no matching: the plain average", 1.0, matched=False),
        Method("rebasin", "weights alone (Git Re-Basin)", 1.0),
        Method("act-align", "activations alone, one pass", 0.0),
        Method("mudsc-align", "weights and activations (MuDSC)", None),
    )
}
