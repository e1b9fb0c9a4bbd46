"""A model under evaluation: which of its outputs answers which task, and a session that gives these outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.specs import InputSpec, conform_all, fixed_batch, input_specs, is_batched
from onnxmerge.errors import InputError
from onnxmerge.evaluation.heads import answer
from onnxmerge.evaluation.task import Task
from onnxmerge.model.demand import demand
from onnxmerge.model.interface import only_batch, resized_batch
from onnxmerge.model.network import Network
from onnxmerge.model.session import Session, open_session, prepared
from onnxmerge.types import Floats


def free_batch(specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs with a batch of any size, where axis 0 is the batch: a `Candidate` cuts and fills up by itself."""
    if not is_batched(specs):
        return tuple(specs)
    return with_size(specs, None)


def with_size(specs: Sequence[InputSpec], size: int | None) -> tuple[InputSpec, ...]:
    """The inputs of a model whose axis 0 is the batch, with a batch of this size (None: any)."""
    return tuple(replace(spec, shape=(size, *spec.shape[1:])) for spec in specs if spec.shape is not None)


def outputs_of(tasks: Sequence[Task], network: Network, learned: Sequence[int] = ()) -> tuple[str | None, ...]:
    """The output that answers each task; None where the model has no answer.

    That is the output which the task names. A model with a single output answers with it a task that names none, the
    tasks that it ``learned``, and tasks that all name the same: exporters choose names as they like.

    Raises:
        InputError: the model has several outputs and a task does not say which, or it answers none at all.

    """
    names = [str(value.name) for value in network.graph.outputs]
    shared = len({task.output for task in tasks}) == 1
    found: list[str | None] = []
    for index, task in enumerate(tasks):
        if task.output in names:
            found.append(task.output)
        elif len(names) == 1 and (task.output is None or shared or index in learned):
            found.append(names[0])
        elif task.output is None:
            raise InputError(
                f"{network.label}: has outputs {', '.join(names)}; say which answers task {task.name!r} "
                "(--task NAME=...@OUTPUT, or its output in the task file)"
            )
        elif index in learned:
            raise InputError(
                f"{network.label}: has outputs {', '.join(names)}; task {task.name!r}, which it learned, "
                f"names {task.output!r}"
            )
        else:
            found.append(None)
    if not any(found):
        asked = ", ".join(sorted({str(task.output) for task in tasks}))
        raise InputError(f"{network.label}: has outputs {', '.join(names)}, none of those that tasks name: {asked}")
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A model with an open session. ``outputs[t]`` is the name of the output for task ``t``, or None."""

    network: Network
    session: Session
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str | None, ...]

    def fitted(self, feed: Feed) -> Candidate:
        """The candidate for batches of the size that the model takes, where it declares a free one but is fixed inside.

        ``feed`` are the first rows of the data. Raises ResourceError where even one of them takes more memory or time
        than it may.
        """
        names = [name for name in self.outputs if name is not None]
        asked = replace(self.network, model=prepared(self.network.model, {}, names))
        batched, given = is_batched(self.inputs), self._fitting(feed)
        demand(asked).require_room(resized_batch(given, 1) if batched else given)
        if not batched or fixed_batch(self.inputs) is not None:
            return self

        size = only_batch(self.network.graph, lambda size: self._batch(resized_batch(given, size), size))
        return self if size is None else replace(self, inputs=with_size(self.inputs, size))

    def answers(self, feed: Feed, tasks: Sequence[Task]) -> list[Floats | None]:
        """Scores or predictions for each task on one feed; InputError where the model does not fit feed or tasks."""
        return self.read(self._run(self._fitting(feed)), tasks)

    def read(self, outputs: Mapping[str, Any], tasks: Sequence[Task]) -> list[Floats | None]:
        """The same from the outputs of a run. Raises InputError where they do not fit the tasks."""
        return [
            None if name is None else answer(task, outputs[name], f"{self.network.label}, output {name!r}")
            for task, name in zip(tasks, self.outputs, strict=True)
        ]

    def _fitting(self, feed: Feed) -> Feed:
        """The feed under this model's names (by position where exporters named inputs otherwise) and types."""
        names = [spec.name for spec in self.inputs]
        if set(names) != set(feed) and len(names) == len(feed):
            feed = dict(zip(names, feed.values(), strict=True))
        return conform_all(feed, self.inputs, self.network.label, batched=is_batched(self.inputs))

    def _run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        if not is_batched(self.inputs):
            return self.session.run(feed)
        parts = [self._batch(part, rows) for part, rows in _parts(feed, fixed_batch(self.inputs))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, feed: Feed, rows: int) -> dict[str, NDArray[Any]]:
        """Outputs for the first ``rows`` of a feed."""
        size = len(next(iter(feed.values())))
        found: dict[str, Any] = self.session.run(feed)
        self.require_rows(found, size)
        return {name: array[:rows] for name, array in found.items()}

    def require_rows(self, outputs: Mapping[str, Any], samples: int) -> None:
        """Raise InputError where an output that answers has no row for each sample."""
        for name in self.outputs:
            array = None if name is None else outputs[name]
            if array is None or (isinstance(array, np.ndarray) and array.ndim and len(array) == samples):
                continue
            shape = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(
                f"{self.network.label}: output {name!r} is {shape} for {samples} samples, expected a row for each"
            )


def _parts(feed: Feed, size: int | None) -> Iterator[tuple[Feed, int]]:
    """The feed in batches of exactly ``size``, the last filled up with its last row, and how many rows count."""
    total = len(next(iter(feed.values())))
    size = total if size is None else size
    for first in range(0, total, size):
        part = {name: array[first : first + size] for name, array in feed.items()}
        rows = min(size, total - first)
        if rows < size:
            part = {n: np.concatenate([a, np.repeat(a[-1:], size - rows, axis=0)]) for n, a in part.items()}
        yield part, rows


def open_candidate(
    network: Network,
    tasks: Sequence[Task],
    *,
    weights: Mapping[str, NDArray[Any]] | None = None,
    learned: Sequence[int] = (),
    provider: str = "auto",
) -> Candidate:
    """Open a model for ``tasks``; ``weights`` replace its own (a merge that is not written yet).

    Raises:
        InputError: no output answers a task, or the model does not load.
        UsageError: the provider is not available.

    """
    outputs = outputs_of(tasks, network, learned)
    wanted = [name for name in dict.fromkeys(outputs) if name is not None]
    session = open_session(
        network.model, weights=weights, outputs=wanted, provider=provider, optimise=True, alternating=True
    )
    return Candidate(network, session, input_specs(network.model), outputs)
