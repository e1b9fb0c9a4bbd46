"""Methods that zip the units of all models together: by weights, activations or both."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.errors import UsageError
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.method import (
    MatchOptions,
    MatchProblem,
    MatchResult,
    depending,
    notes_on,
    require_weights_only,
    search_of,
    share_of,
    shares_of,
    without_activations,
)
from onnxmerge.matching.signatures import tell_apart
from onnxmerge.matching.similarity import known_activations
from onnxmerge.matching.zip_objective import ZipObjectiveFunction
from onnxmerge.matching.zip_similarity import ModelsToZip
from onnxmerge.matching.zip_sweeps import unmoved_zip, zip_by_activations, zip_by_weights, zip_sweep
from onnxmerge.units.groups import make_plan


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
        alpha = share_of(self.name, self.alpha, options)
        if options.objective == "inner":
            raise UsageError(f"method {self.name} compares by correlation; inner products are for rebasin")
        plan = make_plan(problem.typing, options.overrides.pinned)
        if not self.needs_activations:
            require_weights_only(self.name, options.overrides)
        if self.needs_activations and plan.groups and problem.together is None:
            raise without_activations(self.name)
        known = known_activations(
            plan, (problem.together if self.needs_activations else None) or {}, len(problem.weights)
        )
        cached = [CachedWeights(weights, options.cache_bytes) for weights in problem.weights]
        tell_apart(plan, cached, known)
        shares = shares_of(plan, alpha, known, options.overrides)
        typing = replace(problem.typing, spaces=plan.spaces)
        models = ModelsToZip(plan, typing, cached, known, shares, problem.shares, options.widths)
        rng = np.random.default_rng(options.seed)
        with np.errstate(invalid="ignore", over="ignore"):
            unmoved = unmoved_zip(models)
            start = (zip_by_activations if self.needs_activations else zip_by_weights)(models, options.zip)
            roots = depending(plan, shares, alpha)
            objective_of = ZipObjectiveFunction(models)
            found = zip_sweep(objective_of, start, roots, options.zip, rng=rng, max_sweeps=options.max_sweeps)
            before = objective_of(unmoved)
        notes = notes_on(plan, shares, options.overrides, activations=self.needs_activations)
        return MatchResult(self.name, zipped=found.matching, searches=(search_of(found, before, started, notes),))
