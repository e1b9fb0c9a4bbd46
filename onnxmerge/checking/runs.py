"""Running a model on data: any exporter's names for the inputs, any batch that it fixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.chunks import rows as rows_of
from onnxmerge.calibration.specs import InputSpec, conform_all, fixed_batch, input_specs, is_batched
from onnxmerge.errors import InputError
from onnxmerge.evaluation.candidate import with_size
from onnxmerge.model.interface import only_batch, resized_batch
from onnxmerge.model.network import Network
from onnxmerge.model.session import Session, open_session
from onnxmerge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Runner:
    """A model with an open session."""

    network: Network
    session: Session
    specs: tuple[InputSpec, ...]

    @property
    def batched(self) -> bool:
        """Whether axis 0 of all inputs is the batch."""
        return is_batched(self.specs)

    @property
    def free(self) -> bool:
        """Whether the batch may have any size."""
        return fixed_batch(self.specs) is None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(str(value.name) for value in self.network.graph.outputs)

    def fitting(self, feed: Feed) -> dict[str, Array]:
        """A feed under this model's names, by position where exporters named inputs otherwise, and in its types."""
        names = [spec.name for spec in self.specs]
        if set(names) != set(feed) and len(names) == len(feed):
            feed = dict(zip(names, feed.values(), strict=True))
        return conform_all(feed, self.specs, self.network.label, batched=self.batched)

    def run(self, feed: Feed) -> dict[str, Any]:
        """The outputs for a feed that fits. Raises InputError where the model does not run on it."""
        size = fixed_batch(self.specs) if self.batched else None
        rows = rows_of(feed)
        if size is None or rows == size:
            return self.once(feed)
        found: list[dict[str, Any]] = []
        for first in range(0, rows, size):
            part = {name: array[first : first + size] for name, array in feed.items()}
            kept = rows_of(part)
            given = self.once(resized_batch(part, size))
            found.append({name: _rows(array, kept, size, self.network.label, name) for name, array in given.items()})
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def in_its_batches(self, sample: Feed) -> Runner:
        """The runner for batches of the size that the model takes, where it declares a free one but is fixed inside.

        ``sample`` are a few rows, under any names. Raises ResourceError where one of them takes more than it may.
        """
        if not self.batched or not self.free:
            return self
        try:
            given = self.fitting(sample)
        except InputError:  # which its first run says
            return self

        size = only_batch(self.network.graph, lambda size: self.once(resized_batch(given, size)))
        return self if size is None else replace(self, specs=with_size(self.specs, size))

    def once(self, feed: Feed) -> dict[str, Any]:
        """The outputs of one run."""
        return self.session.run(feed)


def open_runner(network: Network, provider: str) -> Runner:
    """Open a model as it is served: optimised. Raises InputError where ONNX Runtime does not accept it."""
    session = open_session(network.model, provider=provider, optimise=True, alternating=True)
    return Runner(network, session, input_specs(network.model))


def floats(outputs: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """The outputs that are numbers and no indices, by name."""
    for name, array in outputs.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            yield name, array


def first_rows(feed: Feed, count: int) -> dict[str, Array]:
    """The first samples of a feed."""
    return {name: array[:count] for name, array in feed.items()}


def _rows(array: Any, kept: int, size: int, label: str, name: str) -> Array:
    if not isinstance(array, np.ndarray) or array.ndim == 0 or len(array) != size:
        raise InputError(f"{label}: output {name!r} has no row for each of the {size} samples that the model fixes")
    return array[:kept]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two runs gave the same, bit by bit (nan is itself)."""
    return all(_identical(a, b) for a, b in zip(one, other, strict=True))


def _identical(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return repr(one) == repr(other)
    return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
