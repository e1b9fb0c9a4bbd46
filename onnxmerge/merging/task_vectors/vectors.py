"""The task vectors of one tensor, or of one matrix in it: what fine-tuning changed in each model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class TaskVectors:
    """Task vectors, float64, computed anew on each pass: one is in memory at a time.

    ``read`` gives that of a model [shape]; ``weights`` has one number for each model, their mean being 1.
    """

    name: str
    shape: tuple[int, ...]
    weights: Sequence[float]
    read: Callable[[int], Floats]
    seed: int = 0

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers of the tensor's own, whichever tensors were read before it."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])

    @property
    def stacked(self) -> Floats:
        """All at once, each times its weight [models, *shape]."""
        return np.stack([weight * vector for weight, vector in self])

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
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        total += weight / len(vectors) * vector
    return total
