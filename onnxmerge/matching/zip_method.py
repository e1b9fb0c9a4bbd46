"""Methods that zip the units of all models together: by weights, activations or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxmerge.matching.exemplars import with_exemplars
from onnxmerge.matching.method import (
    MatchProblem,
    MatchResult,
    compared_together,
    depending,
    notes_on,
    search_of,
    shares_of,
)
from onnxmerge.matching.options import Zips
from onnxmerge.matching.signatures import tell_apart
from onnxmerge.matching.zip_objective import ZipObjectiveFunction
from onnxmerge.matching.zip_similarity import ModelsToZip
from onnxmerge.matching.zip_sweeps import unmoved_zip, zip_by_activations, zip_by_weights, zip_sweep
from onnxmerge.types import Floats


def zip_together(problem: MatchProblem, options: Zips, alpha: float) -> MatchResult:
    """Zip all models; ``alpha`` is the share of weights in what is compared.

    Raises UsageError where rules or problem do not fit that.
    """
    started, compared, overrides = time.perf_counter(), alpha < 1.0, options.overrides(problem.typing)
    plan, known, cached = compared_together(problem, overrides, alpha)
    tell_apart(plan, cached, known)
    shares = shares_of(plan, alpha, known, overrides)
    typing = replace(problem.typing, spaces=plan.spaces)
    models = ModelsToZip(plan, typing, cached, known, shares, problem.shares, problem.widths)
    rng = np.random.default_rng(problem.seed)
    with np.errstate(invalid="ignore", over="ignore"):
        unmoved = unmoved_zip(models)
        start = (zip_by_activations if compared else zip_by_weights)(models, options.rule)
        roots = depending(plan, shares, alpha)
        objective_of = ZipObjectiveFunction(models)
        found = zip_sweep(objective_of, start, roots, options.rule, rng=rng, max_sweeps=problem.max_sweeps)
        before = objective_of(unmoved)
    notes = notes_on(plan, shares, overrides, activations=compared)
    zipped = found.matching
    if options.zip_unit == "member":
        unseen: list[Mapping[str, Floats]] = [{} for _ in cached]
        zipped = with_exemplars(zipped, typing, cached, problem.deviations or unseen, models.shares)
    return MatchResult(zipped=zipped, searches=(search_of(found, before, started, notes),))
