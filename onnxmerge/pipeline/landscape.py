"""The plane through two networks and their merge: where they lie on it, and the network at any point of it.

A point is a mean of networks with shares that add up to 1 and may be negative. All weights take part, the running
statistics of BatchNormalization among them, so the three networks themselves come back bit by bit at their own points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.calibration.chunks import Feed, nbytes
from onnxmerge.calibration.subset import Spread
from onnxmerge.evaluation.losses import Losses, Right
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.method import MatchProblem
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.memory import room_for
from onnxmerge.merging.combine import mean_of
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.normalisation import batchnorms
from onnxmerge.pipeline.job import Job, Progress
from onnxmerge.pipeline.landscape_tasks import LandscapeTasks
from onnxmerge.pipeline.matching import match, measured
from onnxmerge.types import Array, Arrays, Floats
from onnxmerge.units.permutations import transported

TOGETHER = 1 << 26
"""Bytes of feeds and right answers from which on no more are taken before all networks have run on these."""

KEPT = 1 << 28
"""Bytes of weights that are kept of each network at most, once read and in the first's units."""

MARGIN = 0.3
"""How far the plane reaches beyond the three networks, as a share of how far they are apart."""

OVERLAP = "overlap"
"""What the losses of all tasks together are called."""

SAME = 1e-6
"""Networks so near to each other, as a share of the first's length, are one."""

FLAT = 1e-4
"""A merge nearer than that to the line through its parents, as a share of their distance, spans no plane with them."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Coordinates in which the first network is at (0, 0), the second at (1, 0) and the merge at ``merged``.

    Both axes count in ``distance``, the Euclidean distance of the two over all their weights; 0 where they are one
    network but for rounding, and then there are no coordinates.
    """

    distance: float
    merged: tuple[float, float]

    @property
    def flat(self) -> bool:
        """Whether the three are on one line, or two of them are the same."""
        return self.merged[1] < FLAT

    def shares(self, x: float, y: float) -> tuple[float, float, float]:
        """The shares of first, second and merge in the network at a point."""
        merged = y / self.merged[1]
        second = x - merged * self.merged[0]
        return 1 - second - merged, second, merged


def plane_of(first: Arrays, second: Arrays, merged: Arrays) -> Plane:
    """The plane through three networks, all in the same units; one tensor of each is in memory at a time."""
    along, across, both = products(first, second, merged)
    length, _, _ = products(LazyWeights(first, lambda name: np.zeros_like(first[name])), first, first)
    if along <= SAME**2 * length:
        return Plane(0.0, (0.0, 0.0))
    x = both / along
    return Plane(math.sqrt(along), (x, math.sqrt(max(across / along - x * x, 0.0))))


def products(origin: Arrays, one: Arrays, other: Arrays) -> tuple[float, float, float]:
    """Of the differences of two networks from a third: their squared lengths, and their inner product."""
    total = np.zeros(3)
    for name in origin:
        if is_floating(origin[name].dtype):
            left, right = (_difference(network[name], origin[name]) for network in (one, other))
            total += [np.vdot(*pair).real for pair in ((left, left), (right, right), (left, right))]
    along, across, both = total.tolist()
    return along, across, both


def _difference(one: Array, other: Array) -> Array:
    """Their difference in float64, 0 where an infinity of a mask is in either."""
    wide = np.dtype(np.complex128 if one.dtype.kind == "c" else np.float64)
    with np.errstate(invalid="ignore"):
        found = one.astype(wide) - other.astype(wide)
    return np.ravel(np.where(np.isfinite(found), found, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """First, second and merge in the first's units, and the second as it is; ``notes`` are for people.

    ``variances`` are running variances, by name. ``to_merge``: the second was matched to the merge, not to the first.
    """

    networks: tuple[Arrays, ...]
    plane: Plane
    variances: frozenset[str]
    notes: tuple[str, ...]
    to_merge: bool = False

    def at(self, shares: Sequence[float]) -> LazyWeights:
        """The mean of the networks by ``shares`` that add up to 1, computed when read.

        Those without a share are not read, and no share makes a variance negative. Reading raises InputError, naming
        the tensor, where the networks differ in something that has no mean.
        """
        used = [(network, share) for network, share in zip(self.networks, shares, strict=True) if share]

        def mean(name: str) -> Array:
            with np.errstate(over="ignore"):  # of float16, far outside
                found = mean_of(name, (network[name] for network, _ in used), [share for _, share in used])
            return np.maximum(found, 0) if name in self.variances else found

        return LazyWeights(self.networks[0], mean)


def corners_of(job: Job) -> Corners:
    """Match the second of three models, and the merge where it is in an order of its own, to the first.

    The merge was made with other data, batches and options, by which the method may have found another order of the
    second. The merge knows: where the second is nearer to it by its weights, it is taken in that order.
    """
    typing, (first, second, merged) = job.prepared.typing, job.prepared.models.weights
    norms = batchnorms(job.prepared.models.template.graph)
    to_first, merged_to_first = match(job, measured(job, [job.options])).permutations
    aligned, moved, notes = transported(second, typing, to_first), transported(merged, typing, merged_to_first), []
    # A merge may be in the units of neither: it is in those in which it is nearer to both.
    near, far = (sum(products(parent, other, other)[0] for parent in (first, aligned)) for other in (merged, moved))
    if far < near:
        merged = moved
        notes.append("the merge has its units in an order of its own: it was matched to the first model")
    inside = _nearer(job, aligned, merged)
    aligned = aligned if inside is None else inside
    plane = plane_of(first, aligned, merged)
    if not plane.distance:
        notes.append("both parents are one network, but for the order of its units: there is no plane, only the line")
    elif plane.flat:
        notes.append("the merge is on the line between its parents: there is no plane, only the line")
    if norms:
        notes.append("BatchNorm: between the models running statistics are the mean of theirs, not measured anew")
    variances = frozenset(norm.variance for norm in norms)
    room = room_for(KEPT, 16)
    kept = tuple(CachedWeights(each, room) for each in (first, aligned, merged, second))
    return Corners(kept, plane, variances, tuple(notes), inside is not None)


def _nearer(job: Job, aligned: Arrays, merged: Arrays) -> LazyWeights | None:
    """The second in the order that weights give beside the merge; None where that is no nearer to the merge.

    None too for a method that matches nothing.
    """
    if job.options.matcher is None or not job.options.matcher.moves:
        return None
    typing = job.prepared.typing
    (order,) = MATCHERS["rebasin"](MatchProblem(typing, [merged, aligned], seed=job.options.seed)).permutations
    found = transported(aligned, typing, order)
    before, after = (products(merged, each, each)[0] for each in (aligned, found))
    return found if after < (1 - SAME) * before else None


@dataclass(frozen=True, slots=True, eq=False)
class LossSurface:
    """The loss of one task wherever it was measured, or the overlap of all tasks.

    ``marks`` are those of first, second and merge, ``before`` and ``after`` [points] those along the straight line
    between the parents, the second as it is and brought to the first, ``plane`` [y, x] those on the plane (empty where
    there is none). ``constant`` is what the best single answer to all samples loses. The overlap is the largest of the
    tasks' losses, each as a share of that: low where all tasks are done well.
    """

    name: str
    constant: float
    marks: Floats
    before: Floats
    after: Floats
    plane: Floats

    @property
    def barriers(self) -> tuple[float, float]:
        """How far the loss rises above the line between its ends, at most, before and after matching."""
        return _barrier(self.before), _barrier(self.after)

    def shares(self, losses: Floats) -> Floats:
        """Losses as shares of what one answer for all loses; as they are where that is nothing."""
        return losses / (self.constant or 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """The networks to run, each once, by their shares in the corners; where they belong is said by their indices.

    ``xs`` and ``ys`` are the coordinates of the plane, ``ts`` those of the line.
    """

    shares: tuple[tuple[float, ...], ...]
    xs: Floats
    ys: Floats
    ts: Floats
    marks: list[int]
    before: list[int]
    after: list[int]
    plane: list[list[int]]

    @staticmethod
    def on(plane: Plane, points: int) -> Wanted:
        """All that is to be seen of a plane, with so many points on each side and on each line."""
        known: dict[tuple[float, ...], int] = {}

        def place(*shares: float) -> int:
            return known.setdefault(shares, len(known))

        x, y = plane.merged
        every = 0 if plane.flat else points
        xs, ys, ts = _reach(min(x, 0), max(x, 1), every), _reach(0, y, every), np.linspace(0, 1, points)
        marks = [place(1, 0, 0, 0), place(0, 1, 0, 0), place(0, 0, 1, 0)]
        before = [place(1 - t, 0, 0, t) for t in ts.tolist()]
        after = [place(1 - t, t, 0, 0) for t in ts.tolist()]
        grid = [[place(*plane.shares(at_x, at_y), 0) for at_x in xs.tolist()] for at_y in ys.tolist()]
        return Wanted(tuple(known), xs, ys, ts, marks, before, after, grid)

    def surface(self, name: str, constant: float, losses: Floats) -> LossSurface:
        """The losses [networks] of one task where they belong."""
        grid = np.array(self.plane, np.int64).reshape(len(self.ys), len(self.xs))
        return LossSurface(name, constant, losses[self.marks], losses[self.before], losses[self.after], losses[grid])


def _reach(first: float, last: float, points: int) -> Floats:
    margin = MARGIN * (last - first)
    return np.linspace(first - margin, last + margin, points)


def losses_of(
    exposed: Exposed,
    networks: Sequence[Arrays],
    asked: LandscapeTasks,
    feeds: Spread,
    provider: str,
    progress: Progress,
) -> list[Losses]:
    """The losses of networks at all tasks, on some feeds at a time and on these of one network after the other."""
    found = [Losses(np.zeros(len(networks))) for _ in asked.names]
    total, done = len(networks) * len(feeds.sizes), 0
    with progress("losses") as report, np.errstate(invalid="ignore", over="ignore"):  # far outside anything comes out
        for group in _groups(feeds, asked):
            for losses, expected in (pair for _, every in group for pair in zip(found, every, strict=True)):
                losses.expect(expected)
            for index, weights in enumerate(networks):
                outputs = exposed.each_answer(weights, [feed for feed, _ in group], provider=provider)
                for (_, every), own in zip(group, outputs, strict=True):
                    for losses, expected, answer in zip(found, every, asked.read(own), strict=True):
                        losses.sums[index] += expected.loss(answer)
                done += len(group)
                report(done, total)
    return found


def _groups(feeds: Spread, asked: LandscapeTasks) -> Iterator[list[tuple[Feed, list[Right]]]]:
    """Feeds with what is right on them, as many at a time as take little memory."""
    group: list[tuple[Feed, list[Right]]] = []
    size = 0
    for place, feed in feeds.placed():
        group.append((feed, asked.right(place, feed)))
        size += nbytes(feed) + sum(right.values.nbytes for right in group[-1][1])
        if size > TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def _barrier(losses: Floats) -> float:
    """max_t L(t) - ((1 - t) L(0) + t L(1)): Frankle et al., ICML 2020, arXiv 1912.05671."""
    with np.errstate(invalid="ignore"):  # no barrier is known between ends that are infinite
        return float(np.max(losses - np.linspace(losses[0], losses[-1], len(losses))))
