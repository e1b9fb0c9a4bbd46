"""``--scale auto`` and ``--depth auto``: where a merged network has learnt what each of its parents has.

How much is to be added to a base cannot be read off the weights, but off answers to unlabelled samples. With b those of
the base, p_m a parent's and x the merged network's (of length one where they are directions), the rows of

    d_m = p_m - b,      c = x - b,      both less their means over the samples,

say what parent m and the merged network have learnt. A parent changes answers mostly in the few directions that its own
task needs, d_m = U S V^T, and is heard there: its agreement is the cosine, over all samples, of d_m V S with c V S, and
a scale is as good as the mean over parents. It grows with the scale until the parents drown each other out.

The depth is found first, at the method's own scale, then the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxmerge.contracts import AUTO
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.reconstruction import NothingToCompareError, Reference
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.merging.task_vectors import TASK_VECTORS, Scaled
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.matrices import layer_depths
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.restoring import task_vectors_added, with_statistics
from onnxmerge.pipeline.selection.held_out import HeldOutEvaluator
from onnxmerge.types import Array, Arrays, Floats, Rows

STEPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
"""Scales that are tried, in units of the method's own."""

DEPTHS = (0.0, 0.2, 0.4, 0.6)
"""Differences between the first and the last layers that are tried."""


@dataclass(frozen=True, slots=True)
class ScaleCandidate:
    """A scale and a depth, and the ``agreement`` of what the merged network learnt with its parents', at most 1."""

    scale: float
    depth: float
    agreement: float


@dataclass(frozen=True, slots=True)
class ScaleReport:
    """What was tried on so many held-out ``samples``, and which of it was ``chosen``."""

    samples: int
    candidates: tuple[ScaleCandidate, ...]
    chosen: int


def scaled_methods(models: int) -> tuple[str, ...]:
    """The methods that add to a base what so many models learnt, times a scale."""
    return tuple(
        name
        for name, method in TASK_VECTORS.items()
        if "base" in method.needs and issubclass(method.options, Scaled) and method.models in (None, models)
    )


def answers_in(reference: Reference) -> list[str]:
    """The float outputs, in which a scale is found. Raises NothingToCompareError where there are none."""
    names = [feature.tensor for feature in reference.features if feature.answer]
    if not names:
        raise NothingToCompareError(
            "the network has no float output, in which a scale is found; give a method and a number (--method "
            "task-arithmetic --scale 0.4)"
        )
    return names


def choose_scale(job: Job, evaluator: HeldOutEvaluator) -> tuple[MergeOptions, ScaleReport]:
    """The options with the scale and depth that are best, and what was tried: those given, where none is to be found.

    ``job`` has the samples that what is tried is repaired on: see ``in_brief``.

    Raises NothingToCompareError where the network has no float output, InputError where no answer is finite.
    """
    how, method, base = job.options, job.options.task_vectors, job.base
    own = None if method is None else how.own_of(method)
    if method is None or not isinstance(own, Scaled) or base is None:
        raise UsageError(f"--scale auto compares with a base; method {job.options.method} has none")
    graph, unit = job.prepared.models.template.graph, method.options().scale
    step, depths = repair_step(graph, job.prepared.typing, job.options.repair), layer_depths(graph)
    plain = how.by(how.method, how.refine, scale=1.0, depth=0.0)
    added = task_vectors_added(replace(job, options=plain), method)
    learnt = _Learnt.of(evaluator.reference, evaluator.reference.rows_of(base.weights)[0])
    tried: list[ScaleCandidate] = []
    first = own.depth if isinstance(own.depth, float) else None
    start = own.scale if isinstance(own.scale, float) else unit
    rest = [size * unit for size in STEPS] if own.scale == AUTO else []
    with job.progress("choosing a scale") as report:
        count = (len(DEPTHS) if first is None else 0) + len(rest)

        def attempt(scale: float, depth: float) -> None:
            trial = replace(own, scale=scale, depth=depth)
            weights = LazyWeights(added, partial(_scaled, base.weights, added, trial, depths))
            found = with_statistics(job, weights, step).weights
            tried.append(ScaleCandidate(scale, depth, learnt.agreement(evaluator.reference.rows_of(found)[0])))
            report(len(tried), count)

        for depth in DEPTHS if first is None else ():
            attempt(start, depth)
        depth = tried[_best(tried)].depth if first is None else first
        for scale in rest or ([] if tried else [start]):
            attempt(scale, depth)
    best = tried[_best(tried)]
    chosen = how.by(how.method, how.refine, scale=best.scale, depth=best.depth)
    return chosen, ScaleReport(evaluator.samples, tuple(tried), tried.index(best))


def _best(tried: Sequence[ScaleCandidate]) -> int:
    """The first of those that agree best."""
    every = [each.agreement if np.isfinite(each.agreement) else -np.inf for each in tried]
    if max(every) == -np.inf:
        raise InputError("--scale auto: no scale gives finite answers on held-out samples; give a number")
    return every.index(max(every))


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
    """What each parent learnt, output by output: ``readers`` are V S [units, directions], ``changes`` d V S."""

    before: Mapping[str, Floats]
    changes: Mapping[str, Sequence[Floats]]
    readers: Mapping[str, Sequence[Floats]]
    directions: frozenset[str]

    @classmethod
    def of(cls, reference: Reference, before: Mapping[str, Rows]) -> _Learnt:
        """What the parents learnt since the base, which answers ``before``."""
        names = answers_in(reference)
        directions = frozenset(name for name in names if name in reference.readers[0])
        start = {name: _plain(before[name], directions=name in directions) for name in names}
        changes, readers = dict[str, list[Floats]](), dict[str, list[Floats]]()
        for name in names:
            for own in reference.rows:
                change = _centred(_plain(own[name], directions=name in directions) - start[name])
                _, s, v = np.linalg.svd(change, full_matrices=False)
                readers.setdefault(name, []).append(v.T * s)
                changes.setdefault(name, []).append(change @ readers[name][-1])
        return cls(start, changes, readers, directions)

    def agreement(self, rows: Mapping[str, Rows]) -> float:
        """How well a network that answers ``rows`` agrees, the mean over outputs and parents."""
        found = []
        for name, start in self.before.items():
            change = _centred(_plain(rows[name], directions=name in self.directions) - start)
            for parent, reader in zip(self.changes[name], self.readers[name], strict=True):
                own = change @ reader
                size = float(np.linalg.norm(own)) * float(np.linalg.norm(parent))
                found.append(float(np.vdot(own, parent)) / size if size > 0 else 0.0)
        return float(np.mean(found))


def _scaled(base: Arrays, added: Arrays, own: Scaled, depths: Mapping[str, float], name: str) -> Array:
    """An initializer that was computed at scale 1, at another; what rules say stays."""
    one = added[name]
    if own.rule_for(name) is not None or not is_floating(one.dtype) or one.dtype.kind == "c":
        return one
    start, end = base[name].astype(np.float64), one.astype(np.float64)
    moved = np.subtract(end, start, out=np.zeros(start.shape), where=np.isfinite(start) & np.isfinite(end))
    scale = own.scale_of(name, depths.get(name, 0.5))
    return np.asarray(np.where(np.isfinite(end), start + scale * moved, end)).astype(one.dtype)


def _plain(rows: Rows, *, directions: bool) -> Floats:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12) if directions else wide


def _centred(rows: Floats) -> Floats:
    return np.asarray(rows - rows.mean(axis=0))
