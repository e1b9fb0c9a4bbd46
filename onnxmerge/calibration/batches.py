"""Calibration batches in the size that measuring wants: a few hundred samples at once, where the network takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import onnx_ir as ir

from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.types import Arrays

T = TypeVar("T")

Widths: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shapes of a batch's arrays but for the first axis; batches can be joined whose are equal."""

ENOUGH = 256
"""Samples in a batch from which its own mean and variance stand in for those of all data."""

TOO_FEW = 64
"""A network that takes only batches smaller than this is measured layer by layer, with settled statistics."""


def parts(batch: Arrays, most: int | None) -> Iterator[Arrays]:
    """The samples of a batch, at most so many at once (None: all)."""
    if most is None:
        yield batch
        return
    for first in range(0, rows(batch), most):
        yield {name: array[first : first + most] for name, array in batch.items()}


def joined_parts(batches: Iterable[Arrays], most: int | None) -> Iterator[Arrays]:
    """The batches, at most so many samples at once: cut, or neighbours of equal shape joined (None: as they are)."""
    if most is None:
        yield from batches
        return
    held: list[Arrays] = []
    for batch in batches:
        for part in parts(batch, most):
            if held and (widths(held[0]) != widths(part) or sum(map(rows, held)) + rows(part) > most):
                yield _joined(held)
                held = []
            held.append(part)
    if held:
        yield _joined(held)


def _joined(batches: Sequence[Arrays]) -> Arrays:
    first = batches[0]
    return first if len(batches) == 1 else {name: np.concatenate([own[name] for own in batches]) for name in first}


def takes_batches(model: ir.Model, source: CalibrationSource) -> bool:
    """Whether batches of at least TOO_FEW samples get through the network (fixed batch sizes are often 1)."""
    return takes_any(model) or next(iter(source.sizes), 0) >= TOO_FEW


def grouped(model: ir.Model, source: CalibrationSource) -> Iterator[Arrays]:
    """The source's batches, neighbours of equal shape put together to at least ENOUGH samples (the last of all too)."""
    if not takes_any(model):
        yield from source
        return
    for group in in_groups(source, lambda batch: (_samples(batch), widths(batch))):
        yield _joined(group)


def in_groups(each: Iterable[T], size: Callable[[T], tuple[int, Widths]]) -> Iterator[list[T]]:
    """Neighbours that ``grouped`` puts together, by the samples and the widths of each."""
    held: list[T] = []  # a small remainder goes with the group before it: a handful of samples has no variance
    pending: list[T] = []
    samples, last = 0, None
    for one in each:
        more, wide = size(one)
        if last not in (None, wide):
            yield [*held, *pending]
            held, pending, samples = [], [], 0
        pending.append(one)
        samples, last = samples + more, wide
        if samples >= ENOUGH:
            if held:
                yield held
            held, pending, samples = pending, [], 0
    if held or pending:
        yield [*held, *pending]


def takes_any(model: ir.Model) -> bool:
    """Whether the first axis of every input is the batch, of any size."""
    specs = input_specs(model)
    return is_batched(specs) and fixed_batch(specs) is None


def _samples(batch: Arrays) -> int:
    return min(len(array) for array in batch.values())


def widths(batch: Arrays) -> Widths:
    """The shapes of a batch's arrays but for the first axis."""
    return {name: array.shape[1:] for name, array in batch.items()}
