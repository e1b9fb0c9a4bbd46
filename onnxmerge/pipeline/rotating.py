"""``--rotate``: after matching, bring spaces that allow it (inside attention heads) closer by rotation.

A permutation is one rotation; where only linear operators see a space's units, every rotation leaves the function as
it is, so the best one brings two models at least as close (orthogonal Procrustes on the matched units).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.statistics import Statistics
from onnxmerge.axes.linear_spaces import rotatable
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.procrustes import covariances, procrustes, products
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.store import NO_STORE
from onnxmerge.types import Floats, Positions
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import transported
from onnxmerge.units.rotation import in_own_units, places, rotated
from onnxmerge.validation.rotation import certify_rotations


@dataclass(frozen=True, slots=True, eq=False)
class RotationResult:
    """The job with its models rotated towards the first, their statistics anew, and the spaces that were rotated."""

    job: Job
    measurements: Measurements
    spaces: tuple[str, ...]


def rotate(job: Job, matched: MatchResult, measurements: Measurements) -> RotationResult:
    """Rotate every model but the first towards it; ``matched`` stays as it is.

    As in matching, the method's alpha weighs weights against activations, where these were gathered. Moments that
    scales need are measured once more, in rotated units, and so will be those that repairs need: what was probed is of
    units as they were. Raises ValidationError where a random rotation of these spaces changes what a model computes.
    """
    prepared, options = job.prepared, job.options
    models, typing = prepared.models, prepared.typing
    spaces = tuple(
        space for space in rotatable(models.template.graph, typing) if _all_finite(models.weights, typing, space)
    )
    if not spaces:
        return RotationResult(job, measurements, ())
    for weights in models.weights:
        certify_rotations(typing, prepared.trace, spaces, weights=weights, seed=options.seed, provider=options.provider)
    others = [
        _turned(job, index, perms, measurements.statistics, spaces)
        for index, perms in enumerate(matched.permutations, start=1)
    ]
    turned = replace(models, weights=(models.weights[0], *others))
    # The keys of what is kept know of the models as they are read.
    job = replace(job, prepared=replace(prepared, models=turned), store=NO_STORE)
    return RotationResult(job, replace(measurements, statistics=_measured_anew(job, measurements)), spaces)


def _all_finite(models: Sequence[Mapping[str, Floats]], typing: Typing, space: str) -> bool:
    """Whether no weight that carries the space holds an infinity, which a rotation would mix with everything."""
    carriers = [name for name, layout in typing.initializers.items() if any(places(layout, space))]
    return all(np.isfinite(weights[name]).all() for weights in models for name in carriers)


def _turned(
    job: Job, index: int, perms: Mapping[str, Positions], statistics: Statistics | None, spaces: tuple[str, ...]
) -> Mapping[str, Floats]:
    """The weights of one model, rotated in its own units."""
    models, typing = job.prepared.models, job.prepared.typing
    found = _rotations(job, index, perms, statistics, spaces)
    return rotated(models.weights[index], typing, in_own_units(found, typing.spaces, perms))


def _rotations(
    job: Job, index: int, perms: Mapping[str, Positions], statistics: Statistics | None, spaces: tuple[str, ...]
) -> dict[str, Floats]:
    """The rotations of one model, in the first's units. Each sees the ones before it: they may share a weight."""
    models, typing = job.prepared.models, job.prepared.typing
    alpha = job.options.alpha or 0.0
    found: dict[str, Floats] = {}
    moved = transported(models.weights[index], typing, perms)
    for space in spaces:
        gram = None if statistics is None else statistics.gram.get(space)
        own = rotated(moved, typing, found)
        weighed = 1.0 if gram is None else alpha
        total = weighed * products(models.weights[0], own, typing, space)
        if gram is not None and weighed < 1.0:
            variances = gram.variance(0), gram.variance(index)
            total = total + (1 - weighed) * covariances(gram.covariance(0, index), variances, typing, space, perms)
        found[space] = procrustes(total)
    return found


def _measured_anew(job: Job, measurements: Measurements) -> Statistics | None:
    """The statistics without what probes saw of units as they were, and with the moments of rotated units."""
    statistics = measurements.statistics
    if statistics is None or job.source is None:
        return statistics
    if not measurements.moments:
        return Statistics(statistics.gram, statistics.moments)
    models, prepared = job.prepared.models, job.prepared
    with job.progress("calibrating") as report:
        found = measure_statistics(
            models.template,
            models.weights,
            prepared.typing,
            measurements.moments,
            job.source,
            provider=job.options.provider,
            progress=report,
        )
    return Statistics(statistics.gram, found.moments)
