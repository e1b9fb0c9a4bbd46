"""The task vectors of one tensor, or of one matrix in it: what fine-tuning changed in each model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxmerge.types import Floats

ENTRIES = 1 << 17
"""Entries of a task vector that are worked on at a time where each is by itself: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskVectors:
    """Task vectors, float64, computed anew on each pass: one is in memory at a time.

    ``read`` gives that of a model [shape], ``part`` some of its entries, counted flat (None: cut out of all that
    ``read`` gives); ``weights`` has one number for each model, their mean being 1.
    """

    name: str
    shape: tuple[int, ...]
    weights: Sequence[float]
    read: Callable[[int], Floats]
    seed: int = 0
    part: Callable[[int, slice], Floats] | None = None

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers of the tensor's own, whichever tensors were read before it."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])

    @property
    def stacked(self) -> Floats:
        """All at once, each times its weight [models, *shape]."""
        found = np.empty((len(self), *self.shape))
        for own, (weight, vector) in zip(found, self, strict=True):
            np.multiply(vector, weight, out=own)
        return found

    def by_entries(self, rule: Callable[[TaskVectors], Floats]) -> Floats:
        """What a ``rule`` gives whose every entry depends on that entry alone: some entries at a time."""
        found = np.empty(self.shape)
        flat = found.reshape(-1)
        for start in range(0, flat.size, ENTRIES):
            piece = slice(start, min(start + ENTRIES, flat.size))
            flat[piece] = rule(
                TaskVectors(self.name, (piece.stop - start,), self.weights, partial(self._part, piece), self.seed)
            )
        return found

    def _part(self, piece: slice, index: int) -> Floats:
        return self.read(index).reshape(-1)[piece] if self.part is None else self.part(index, piece)

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[tuple[float, Floats]]:
        """(weight, task vector) of each model."""
        for index, weight in enumerate(self.weights):
            yield weight, self.read(index)


def of_arrays(stack: Floats, name: str = "", seed: int = 0) -> TaskVectors:
    """Task vectors that are in memory [models, *shape], of equal weights."""
    return TaskVectors(name, stack.shape[1:], [1.0] * len(stack), lambda index: stack[index], seed)


def mean_vector(vectors: TaskVectors) -> Floats:
    """The (weighted) mean: what a tensor gets that a method has no rule for."""
    return vectors.by_entries(_mean)


def _mean(vectors: TaskVectors) -> Floats:
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        total += weight / len(vectors) * vector
    return total
