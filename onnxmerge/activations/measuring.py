"""Measures statistics of activations over a calibration source.

Batch after batch goes through the instrumented graph (all models at once); what comes back is added up in float64.
One batch of activations is held at a time, and none is kept. The data is cut into shards: first the runs of a shard are
added up, then the shards, both in the order of the data, so that shards may be measured anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.columns import unit_columns
from onnxmerge.activations.instrument import instrument
from onnxmerge.activations.moments import Moments, Probe, moments_of_run, together
from onnxmerge.activations.statistics import FeedMoments, Gram, GramRequest, MomentRequest, Statistics, variance_of
from onnxmerge.activations.views import (
    POSITION_BUDGET,
    UnitProduct,
    View,
    mean_output,
    moments_outputs,
    product_output,
    rows_output,
    variance_output,
)
from onnxmerge.calibration.batches import joined_parts, parts, takes_any, widths
from onnxmerge.calibration.chunks import Feed, rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError
from onnxmerge.executor import HERE, Executor
from onnxmerge.memory import mapped_zeros
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session
from onnxmerge.types import Floats
from onnxmerge.units.layout import Space, Typing

POSITIONS = 256
"""Default budget of positions (pixels, tokens) per sample: more are thinned out evenly, neighbours being alike."""

ACTIVATIONS = 1 << 28
"""Bytes of measured activations in one run, of all models, at about which a batch is cut. It does not depend on what is
free: where batches are cut decides how sums are rounded."""

SHARD = 128
"""Samples from which on feeds are a shard. It depends on no machine: it decides how sums are rounded."""

ROWS_OF_SHARD = 1024
"""Where a sample has few rows (one, in a dense layer), a shard has as many samples as give so many: its products cost
more to be added up than to be multiplied."""

_FLUSH_ROWS = 128  # means of so many batches are multiplied at once: one by one would be slow where batches are of 1


def measure_statistics(
    template: ir.Model | Network,
    weights: Sequence[Mapping[str, NDArray[Any]]],
    typing: Typing,
    requests: Sequence[GramRequest | MomentRequest],
    source: CalibrationSource,
    *,
    provider: str = "cpu",
    progress: Callable[[int, int | None], None] | None = None,
    max_positions: int = POSITIONS,
    pairs: Sequence[tuple[int, int]] | None = None,
    probes: Sequence[Probe] = (),
    traced: int | None = None,
    executor: Executor = HERE,
) -> Statistics:
    """Run every set of ``weights`` through the template on the calibration data, once, and collect what is requested.

    ``traced`` is the number of samples that the typing's shapes are of; with it, batches whose activations would take
    more than ACTIVATIONS are cut, where the model takes any number of samples.
    ``pairs`` are the pairs of models whose products a Gram holds: each other model with the first by default; (m, m)
    gives products inside a model. ``probes`` are measured feed by feed, at all positions, in each model.
    ``executor`` says where the data is measured.

    Raises:
        InputError: the source holds nothing or lacks an input, a requested tensor or space does not exist, a model
            cannot run on the data, or an activation is not finite.

    """
    model = template if isinstance(template, ir.Model) else template.model
    if pairs is None:
        pairs = [(0, other) for other in range(1, len(weights))]
    plan = replace(_plan(model, typing, requests, pairs), probes=tuple(probes))
    if not plan.views and not plan.probes:
        return _finished(plan, len(weights), _Sums.of_nothing())
    most = None
    if traced is not None and takes_any(model):
        tensors = {view.tensor for view in plan.views} | {probe.tensor for probe in probes}
        most = samples_at_once(typing, tensors, traced, models=len(weights), size=ACTIVATIONS)
    least = _of_a_shard(plan, typing, traced)
    work = _Measuring(model, tuple(weights), plan, provider, max_positions, most, joins=least > SHARD)
    total, whole = _Sums.of_nothing(), len(source.sizes)
    for shard in executor.map(work, shards(source, least)):
        total = total.with_added(shard)
        if progress is not None:
            progress(len(total.feeds), whole)
    if not total.feeds:
        raise InputError("the calibration source gave no batch; it needs at least one sample")
    return _finished(plan, len(weights), total)


def _of_a_shard(plan: _Plan, typing: Typing, traced: int | None) -> int:
    """The samples from which on feeds are a shard: SHARD, or more where every compared tensor has few rows."""
    compared = {plan.views[view] for views in plan.grams.values() for view in views}
    if traced is None or not compared:
        return SHARD
    most = max(math.prod(typing.activations[view.tensor].shape) / view.columns.units for view in compared) / traced
    return max(SHARD, int(ROWS_OF_SHARD / max(most, 1)))


def shards(source: Iterable[Feed], least: int = SHARD) -> Iterator[tuple[Feed, ...]]:
    """The feeds of a source, neighbours together until they have at least so many samples."""
    held: list[Feed] = []
    samples = 0
    for feed in source:
        held.append(feed)
        samples += rows(feed)
        if samples >= least:
            yield tuple(held)
            held, samples = [], 0
    if held:
        yield tuple(held)


def samples_at_once(typing: Typing, tensors: Collection[str], traced: int, *, models: int = 1, size: int) -> int:
    """How many samples may be in a run that measures ``tensors`` of so many models, which may take ``size`` bytes.

    ``traced`` is the number of samples that the typing's shapes are of.
    """
    values = sum(math.prod(typing.activations[name].shape) for name in tensors)
    return max(1, size * traced // max(values * models * np.dtype(np.float32).itemsize, 1))


def _feeds(batch: Mapping[str, NDArray[Any]], inputs: Sequence[str], max_positions: int) -> dict[str, NDArray[Any]]:
    missing = [name for name in inputs if name not in batch]
    if missing:
        raise InputError(f"calibration data lacks the model's input {missing[0]!r}; it has {sorted(batch)}")
    feeds = {name: batch[name] for name in inputs}
    samples = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    return {**feeds, POSITION_BUDGET: np.array([max(1, samples * max_positions)], np.int64)}


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The views to compute, each once, and which of them each request pools."""

    views: tuple[View, ...]
    grams: Mapping[str, tuple[int, ...]]
    moments: Mapping[tuple[str, str], tuple[int, ...]]
    products: tuple[UnitProduct, ...]
    probes: tuple[Probe, ...] = ()


def _plan(
    model: ir.Model,
    typing: Typing,
    requests: Sequence[GramRequest | MomentRequest],
    pairs: Sequence[tuple[int, int]],
) -> _Plan:
    computed = {value.name for node in model.graph for value in node.outputs}
    views: list[View] = []
    index: dict[tuple[str, tuple[str, ...], int], int] = {}
    grams: dict[str, tuple[int, ...]] = {}
    moments: dict[tuple[str, str], tuple[int, ...]] = {}

    def of(tensor: str, space: Space, *, comparable: bool) -> tuple[int, ...]:
        if tensor not in typing.activations or tensor not in computed:
            raise InputError(f"{tensor!r} is not an activation of the model; its statistics cannot be taken")
        composite = (*space.varies_with, space.id)
        found: list[int] = []
        for region, columns in enumerate(unit_columns(typing.activations[tensor], composite)):
            if comparable and any(typing.spaces[other].free for other in columns.others):
                continue  # the samples run over units that may stand in another order in another model
            if (tensor, composite, region) not in index:
                index[tensor, composite, region] = len(views)
                views.append(View(tensor, columns))
            found.append(index[tensor, composite, region])
        return tuple(found)

    for request in requests:
        if request.space not in typing.spaces:
            raise InputError(f"{request.space!r} is not a space of the model; it has {len(typing.spaces)} spaces")
        space = typing.spaces[request.space]
        if isinstance(request, MomentRequest):
            moments[request.tensor, request.space] = of(request.tensor, space, comparable=False)
            continue
        pooled = [view for tensor in dict.fromkeys(request.tensors) for view in of(tensor, space, comparable=True)]
        if pooled:
            grams[request.space] = tuple(pooled)
    products = tuple(UnitProduct(space, pooled, pair) for space, pooled in grams.items() for pair in pairs)
    return _Plan(tuple(views), grams, moments, products)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """What was added up over the ``feeds``, of each of which is known what probes saw.

    ``counts`` are the rows of each view [views], ``sums`` and ``squares`` [M, units] those of a view's units, ``cross``
    [units, units] the products; views and products are in the order of the plan.
    """

    feeds: tuple[FeedMoments, ...]
    counts: NDArray[np.int64]
    sums: Sequence[Floats]
    squares: Sequence[Floats]
    cross: Sequence[Floats]

    @classmethod
    def of_nothing(cls) -> _Sums:
        return cls((), np.zeros(0, np.int64), (), (), ())

    def with_added(self, other: _Sums) -> _Sums:
        """Both together. The arrays of this one are used up."""
        if not self.feeds:  # what comes from another process must not be written to
            sums, squares, cross = (
                [np.require(each, requirements="W") for each in every]
                for every in (other.sums, other.squares, other.cross)
            )
            return _Sums(other.feeds, other.counts, sums, squares, cross)
        for own, more in ((self.sums, other.sums), (self.squares, other.squares), (self.cross, other.cross)):
            for array, added in zip(own, more, strict=True):
                np.add(array, added, out=array)
        return _Sums(self.feeds + other.feeds, self.counts + other.counts, self.sums, self.squares, self.cross)


@dataclass(frozen=True, slots=True, eq=False)
class _Measuring:
    """The work of measuring: shards of the data go in, sums come out. At most ``most`` samples are run at once.

    Where samples have few rows, and so little of everything, the feeds of a shard are run together (``joins``).
    """

    model: ir.Model
    weights: Sequence[Mapping[str, NDArray[Any]]]
    plan: _Plan
    provider: str
    max_positions: int
    most: int | None
    joins: bool

    def open(self) -> Callable[[Sequence[Feed]], _Sums]:
        """Open all models as one network that gives the statistics."""
        measured, own = instrument(self.model, self.weights, self.plan.views, self.plan.products, self.plan.probes)
        session = open_session(
            measured, weights=own, provider=self.provider, optimise=True, at_once=True, looked_into=True
        )
        inputs = tuple(value.name or "" for value in self.model.graph.inputs)
        probed = [
            {probe.tensor: moments_outputs(probe.tensor, model) for probe in self.plan.probes}
            for model in range(len(self.weights))
        ]

        def sums(shard: Sequence[Feed]) -> _Sums:
            accumulators, feeds = _Accumulators(self.plan, len(self.weights)), list[FeedMoments]()
            if self.joins and not self.plan.probes:
                nothing: tuple[dict[str, Moments], ...] = tuple({} for _ in self.weights)
                for part in joined_parts(shard, self.most):
                    accumulators.add(session.run(_feeds(part, inputs, self.max_positions)))
                return accumulators.finish([FeedMoments(rows(feed), widths(feed), nothing) for feed in shard])
            for feed in shard:
                seen: list[list[dict[str, Moments]]] = [[] for _ in self.weights]
                for part in parts(feed, self.most):
                    results = session.run(_feeds(part, inputs, self.max_positions))
                    accumulators.add(results)
                    for own, names in zip(seen, probed, strict=True):
                        own.append(moments_of_run(names, results))
                feeds.append(FeedMoments(rows(feed), widths(feed), tuple(map(together, seen))))
            return accumulators.finish(feeds)

        return sums


@dataclass(slots=True, eq=False)
class _Accumulators:
    """Float64 sums of what the runs give. Means wait until there are enough for one matrix product of them all."""

    plan: _Plan
    models: int
    counts: NDArray[np.int64] = field(init=False)
    sums: list[Floats] = field(init=False)
    squares: list[Floats] = field(init=False)
    cross: dict[UnitProduct, Floats] = field(default_factory=dict)
    waiting: list[tuple[NDArray[np.int64], list[Floats]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = [view.columns.units for view in self.plan.views]
        self.counts = np.zeros(len(sizes), np.int64)
        self.sums = [np.zeros((self.models, size)) for size in sizes]
        self.squares = [np.zeros((self.models, size)) for size in sizes]

    def add(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Add one run.

        Raises:
            InputError: an activation is not finite.

        """
        counts = np.array([int(outputs[rows_output(v)]) for v in range(len(self.plan.views))], np.int64)
        means: list[Floats] = []
        for v, view in enumerate(self.plan.views):
            mean, variance = (self._stacked(outputs, name, v) for name in (mean_output, variance_output))
            if not counts[v]:
                mean, variance = np.zeros_like(mean), np.zeros_like(mean)  # over nothing they are not numbers
            elif not (np.isfinite(mean).all() and np.isfinite(variance).all()):
                raise InputError(
                    f"activation {view.tensor!r} has NaN or infinite values on the calibration data; "
                    "check its scale against what the model was trained on"
                )
            self.sums[v] += counts[v] * mean
            self.squares[v] += counts[v] * (variance + mean**2)
            means.append(mean)
        self.counts += counts
        for product in self.plan.products:
            found = outputs[product_output(product)]
            if product not in self.cross:
                self.cross[product] = mapped_zeros(found.shape)
            self.cross[product] += found
        self.waiting.append((counts, means))
        if len(self.waiting) >= _FLUSH_ROWS:
            self._flush()

    def _stacked(self, outputs: Mapping[str, NDArray[Any]], name: Callable[[int, int], str], view: int) -> Floats:
        """One output of a view, of all models [M, units]."""
        return np.stack([outputs[name(view, m)].reshape(-1) for m in range(self.models)]).astype(np.float64)

    def _flush(self) -> None:
        """What centring took out of the products: rows times mean times mean, for each run and view."""
        if not self.waiting:
            return
        for product in self.plan.products:
            i, j = product.pair
            counts = np.concatenate([[batch[v] for v in product.views] for batch, _ in self.waiting])
            left = np.stack([means[v][i] for _, means in self.waiting for v in product.views])
            right = np.stack([means[v][j] for _, means in self.waiting for v in product.views])
            self.cross[product] += (left * counts[:, None]).T @ right
        self.waiting.clear()

    def finish(self, feeds: Sequence[FeedMoments]) -> _Sums:
        """What was added up over these feeds."""
        self._flush()
        cross = [self.cross[product] for product in self.plan.products]
        return _Sums(tuple(feeds), self.counts, self.sums, self.squares, cross)


def _finished(plan: _Plan, models: int, total: _Sums) -> Statistics:
    cross = dict(zip(plan.products, total.cross, strict=True)) if total.feeds else {}
    gram = {
        space: Gram(
            int(sum(total.counts[v] for v in views)),
            np.sum([total.sums[v] for v in views], axis=0),
            np.sum([total.squares[v] for v in views], axis=0),
            {product.pair: own for product, own in cross.items() if product.key == space},
        )
        for space, views in plan.grams.items()
    }
    found: dict[tuple[int, str, str], Moments] = {}
    for (tensor, space), views in plan.moments.items():
        count = int(sum(total.counts[v] for v in views))
        for model in range(models if count else 0):
            sums: Floats = np.sum([total.sums[v][model] for v in views], axis=0)
            squares: Floats = np.sum([total.squares[v][model] for v in views], axis=0)
            found[model, tensor, space] = Moments(count, sums / count, variance_of(count, sums, squares))
    probed = tuple(probe.tensor for probe in plan.probes)
    return Statistics(gram, found, probed, total.feeds if probed else ())
