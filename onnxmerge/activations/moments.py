"""Mean and variance of every channel of chosen tensors, measured in a running network and accumulated in float64.

The measurement is compiled into a copy of the graph, which ends in a few numbers for each channel: activations never
leave ONNX Runtime. A batch's variance is taken about the batch's own mean, so large means cost no precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.editor import GraphEditor
from onnxmerge.calibration.batches import grouped, parts, takes_batches
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.session import open_session
from onnxmerge.types import Arrays


@dataclass(frozen=True, slots=True)
class Probe:
    """A tensor of ``rank`` axes to measure along its axis ``channel``; all other axes are averaged over."""

    tensor: str
    channel: int
    rank: int
    dtype: ir.DataType

    @property
    def wide(self) -> ir.DataType:
        """The type to compute in."""
        return self.dtype if self.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT

    @property
    def reduced(self) -> list[int]:
        return [axis for axis in range(self.rank) if axis != self.channel % self.rank]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """``count`` values a channel, their mean and their population variance, float64 [channels]."""

    count: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """The moments of ``values`` [count, channels], at least one."""
        wide = values.astype(np.float64)
        return cls(len(wide), wide.mean(axis=0), wide.var(axis=0))

    @property
    def std(self) -> NDArray[np.float64]:
        return np.sqrt(self.variance)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of values together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * delta**2
        return Moments(count, self.mean + share * delta, variance)


Rewrite: TypeAlias = Callable[[GraphEditor, Probe, ir.Value, ir.Value, ir.Value], None]
"""Called for each probe with its tensor less the batch mean, that mean, and the batch variance (axes kept). All are
of the type ``probe.wide``."""


def measure(
    model: ir.Model,
    weights: Arrays,
    probes: Sequence[Probe],
    batches: Iterable[Arrays],
    *,
    rewrite: Rewrite | None = None,
    provider: str = "cpu",
) -> dict[str, Moments]:
    """Moments of each probe's tensor over all ``batches``, in one pass through ``model`` with ``weights``.

    ``rewrite`` may change what the rest of the network sees, batch by batch. Raises InputError where there is no
    batch, or where a moment is not finite.
    """
    return pooled(probes, by_batch(model, weights, probes, batches, rewrite=rewrite, provider=provider))


def by_batch(
    model: ir.Model,
    weights: Arrays,
    probes: Sequence[Probe],
    batches: Iterable[Arrays],
    *,
    rewrite: Rewrite | None = None,
    provider: str = "cpu",
    most: int | None = None,
) -> Iterator[dict[str, Moments]]:
    """Moments of each probe's tensor for each batch by itself; a tensor without values in a batch is missing there.

    At most ``most`` samples are run at once (None: all of a batch). Not with ``rewrite``, by which the samples of a
    batch depend on each other.
    """
    editor = GraphEditor(model)
    outputs = dict[str, tuple[str, ...]]()
    for probe in probes:
        value = editor.values[probe.tensor]
        editor.at(value.producer())
        size, centred, mean, variance = instrumented(editor, value, probe)
        outputs[probe.tensor] = tuple(str(each.name) for each in (size, mean, variance))
        if rewrite is not None:
            rewrite(editor, probe, centred, mean, variance)
    names = [name for several in outputs.values() for name in several]
    session = open_session(editor.model, weights=weights, outputs=names, provider=provider, optimise=True, at_once=True)
    for batch in batches:
        yield together(moments_of_run(outputs, session.run(dict(part))) for part in parts(batch, most))


def moments_of_run(outputs: Mapping[str, Sequence[str]], results: Arrays) -> dict[str, Moments]:
    """The moments of each tensor in one run, whose ``outputs`` are named: size, means, variances (``instrumented``).

    A tensor without values is left out.
    """
    found = dict[str, Moments]()
    for tensor, names in outputs.items():
        size, mean, variance = (results[name].astype(np.float64).reshape(-1) for name in names)
        if size[0] > 0:
            found[tensor] = Moments(round(size[0] / mean.size), mean, variance)
    return found


def together(several: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """The moments over several sets of values together, by tensor; of a tensor that some lack those of the others."""
    total: dict[str, Moments] = {}
    for each in several:
        for tensor, moments in each.items():
            total[tensor] = total[tensor] + moments if tensor in total else moments
    return total


def pooled(probes: Sequence[Probe], batches: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """The moments over all batches together. Raises InputError where there is none, or a moment is not finite."""
    total = together(batches)
    for probe in probes:
        if probe.tensor not in total:
            raise InputError("no calibration data reached the network; expected at least one batch")
        if not np.isfinite(total[probe.tensor].mean).all() or not np.isfinite(total[probe.tensor].variance).all():
            raise InputError(
                f"tensor {probe.tensor}: activations on the calibration data are not finite; check its scale and values"
            )
    return total


def instrumented(editor: GraphEditor, value: ir.Value, probe: Probe) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Insert the measurement of a probe's tensor, ``value``: its number of values, it less its means, means, variances.

    The last three have its axes, and the type ``probe.wide``.
    """
    wide = value if probe.dtype == probe.wide else editor.cast(value, probe.wide)
    mean = editor.mean(wide, probe.reduced)
    centred = editor.apply("Sub", wide, mean)
    variance = editor.mean(editor.apply("Mul", centred, centred), probe.reduced)
    return editor.apply("Size", value), centred, mean, variance


def settle(
    model: ir.Model,
    weights: Arrays,
    probes: Sequence[Probe],
    source: CalibrationSource,
    *,
    rewrite: Rewrite,
    fold: Callable[[Arrays, Mapping[str, Moments]], dict[str, NDArray[Any]]],
    beside: Iterable[Arrays] | None = None,
    provider: str = "cpu",
) -> dict[str, NDArray[Any]]:
    """New weights for which the tensors have the moments that ``rewrite`` gives them, each on a settled prefix.

    ``fold`` turns the weights and the moments of some probes into the weights that change. In one pass over the data
    where batches are large: every batch is rewritten by its own moments, which is where settling layer after layer
    leads; ``beside`` has what ``rewrite`` wants with each of these batches (see ``measured_batches``). Where a network
    takes a sample or a few at a time those would say nothing, so there one level of layers after another is measured
    over all data, then folded.
    """
    if takes_batches(model, source):
        batches = measured_batches(model, source)
        if beside is not None:
            batches = ({**batch, **more} for batch, more in zip(batches, beside, strict=False))
        measured = measure(model, weights, probes, batches, rewrite=rewrite, provider=provider)
        return fold(weights, measured)
    changed: dict[str, NDArray[Any]] = {}
    current = Overlay(weights, changed)
    for level in levels(model.graph, probes):
        changed.update(fold(current, measure(model, current, level, source, provider=provider)))
    return changed


def measured_batches(model: ir.Model, source: CalibrationSource) -> Iterator[Arrays]:
    """The batches in which all networks of one interface are measured, the merged one and its parents."""
    return grouped(model, source) if takes_batches(model, source) else iter(source)


def levels(graph: ir.Graph, probes: Sequence[Probe]) -> list[list[Probe]]:
    """The probes in the order in which they must be settled if each is to see settled ones before it only.

    Probes of one level do not depend on each other.
    """
    probed = {probe.tensor: probe for probe in probes}
    depth: dict[ir.Value, int] = {}
    found: dict[int, list[Probe]] = {}

    def place(value: ir.Value, before: int) -> None:
        name = str(value.name)
        if name in probed:
            found.setdefault(before, []).append(probed[name])
        depth[value] = before + (name in probed)

    for value in graph.inputs:
        place(value, 0)
    for node in graph:
        before = max((depth.get(value, 0) for value in node.inputs if value is not None), default=0)
        for value in node.outputs:
            place(value, before)
    return [found[level] for level in sorted(found)]
