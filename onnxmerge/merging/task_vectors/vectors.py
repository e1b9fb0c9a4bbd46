"""Task vectors, tensor by tensor: what fine-tuning changed in each model, put together and added to the base.

The models must come from one pretraining. No units are matched: a unit is taken to be the same unit in all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.combine import mean_of
from onnxmerge.model.arrays import identical, is_floating
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import ModelSet
from onnxmerge.types import Floats
from onnxmerge.units.layout import Typing


@dataclass(frozen=True, slots=True)
class Settings:
    """``scale`` multiplies the merged task vector (the papers' lambda), ``density`` is the share of it that is kept."""

    scale: float
    density: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TaskVectors:
    """The task vectors of one tensor, float64, computed anew on each pass: one is in memory at a time.

    ``weights`` has one number for each model, their mean being 1. ``rng`` is this tensor's own.
    """

    name: str
    base: NDArray[Any]
    models: Sequence[Mapping[str, NDArray[Any]]]
    weights: Sequence[float]
    settings: Settings

    @property
    def rng(self) -> np.random.Generator:
        """The same numbers for a tensor whichever tensors were read before it."""
        return np.random.default_rng([self.settings.seed, zlib.crc32(self.name.encode())])

    def __iter__(self) -> Iterator[tuple[float, Floats]]:
        """(weight, task vector) of each model."""
        base = self.base.astype(np.float64)
        known = np.isfinite(base)
        for weight, model in zip(self.weights, self.models, strict=True):
            tuned = model[self.name].astype(np.float64)
            # Nothing is learnt where a mask's -inf stands: there is nothing to add to it or to take from it.
            yield weight, np.subtract(tuned, base, out=np.zeros(base.shape), where=known & np.isfinite(tuned))


Rule: TypeAlias = Callable[[TaskVectors], Floats]
"""Puts the task vectors of one tensor together."""


def add_task_vectors(
    models: ModelSet,
    base: Mapping[str, NDArray[Any]],
    typing: Typing,
    rule: Rule,
    settings: Settings,
    shares: Sequence[float],
) -> LazyWeights:
    """The base with the merged task vector of ``models`` added, under the template's names; computed when read.

    Sums are formed in float64 and cast back to the stored type. What is equal in the base and all models keeps its
    bits. Running statistics say what a network met, not what it learnt; they become the mean of the models'. Reading a
    tensor that is not a float and differs anywhere raises InputError, naming it.
    """
    weights = [share * len(models.weights) for share in shares]

    def merged(name: str) -> NDArray[Any]:
        own = base[name]
        if all(identical(own, model[name]) for model in models.weights):
            return own
        if name in typing.statistics:
            return mean_of(name, (model[name] for model in models.weights), shares)
        if not is_floating(own.dtype) or own.dtype.kind == "c":
            raise InputError(
                f"initializer {name} ({own.dtype}): differs between the models and their base in values that cannot be "
                "added up; expected equal ones"
            )
        found = rule(TaskVectors(name, own, models.weights, weights, settings))
        total = np.asarray(own.astype(np.float64) + settings.scale * found)
        for model in models.weights:  # an infinity that a model learnt to mask with is kept
            tuned = model[name].astype(np.float64)
            total = np.where(np.isfinite(total) & np.isinf(tuned), tuned, total)
        return total.astype(own.dtype)

    return LazyWeights(models.weights[0], merged)
