"""What a merge cannot do without: the floor that its seconds are measured against.

The forward pass of all parents over the samples by ONNX Runtime; one product of all units of every group with those of
each other model, by weights and (where the method looks at them) by activations, at the speed that BLAS has here; one
assignment for each group; the parents read once and the result written once, at the speed of this disk.

Of fine-tunes of one base no units are matched. They and their base are read; and where the method needs singular
directions, LAPACK finds the eigenvectors of a Gram matrix for each matrix to be taken apart, on all cores.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
import scipy.linalg
from numpy.typing import NDArray

from onnxmerge.activations.measuring import POSITIONS
from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.executor import cores_of_process
from onnxmerge.model.matrices import matrix_layouts
from onnxmerge.model.read import data_files
from onnxmerge.pipeline.prepare import load, type_models
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import composite_shape

BATCH = 32
CHUNK = 1 << 24
ROWS = 2
"""Samples that are traced, by which rows of activations are counted."""


Decomposition: TypeAlias = tuple[int, int, int]
"""Rows and columns of a matrix, and how many of its first directions are wanted."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be computed: multiply-adds of products, and the sizes of assignments, each as often as it is made.

    ``decompositions`` are those of matrices into singular directions.
    """

    by_weights: int
    by_activations: int
    assignments: Mapping[int, int]
    decompositions: Mapping[Decomposition, int]


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of each part, measured in one go."""

    forward: float
    products: float
    assignment: float
    decomposition: float
    disk: float

    @property
    def seconds(self) -> float:
        return self.forward + self.products + self.assignment + self.decomposition + self.disk


def work(models: Sequence[Path], data: Path | None, samples: int, method: str, base: Path | None) -> Work:
    """Count what matching by ``method`` needs once; nothing for the plain average, SVDs alone for fine-tunes."""
    if method == "average" or base is not None:
        return Work(0, 0, {}, {} if base is None else _decompositions(models, method))
    loaded = load(list(models))
    feed = None
    if data is not None:
        feed = next(iter(open_source(data, input_specs(loaded.template.model), samples=ROWS)))
    typing = type_models(loaded, feed, None).typing
    plan, others = make_plan(typing), len(models) - 1
    weights = activations = 0
    sizes: dict[int, int] = {}
    for group in plan.groups.values():
        for name in group.members:
            shape = composite_shape(name, plan.spaces)
            outer = math.prod(shape[:-1])
            # inner units of every pair of outer ones
            sizes[shape[-1]] = sizes.get(shape[-1], 0) + others * outer * outer
        for occurrence in group.occurrences:
            for leaf in occurrence.leaves:
                units = math.prod(composite_shape(occurrence.labels[leaf], plan.spaces))
                weights += others * units * math.prod(plan.spaces[each].size for each in occurrence.block.spaces)
    if method != "rebasin" and samples:
        activations = others * sum(_products(typing, space, samples) for space in typing.taps)
    return Work(weights, activations, sizes, {})


def _decompositions(models: Sequence[Path], method: str) -> Mapping[Decomposition, int]:
    """What ``tsv-m`` takes apart: each model's matrices, and either side of what comes of them; others nothing.

    A matrix that several projections are packed in counts as one.
    """
    if method != "tsv-m":
        return {}
    graph, found = load([models[0]]).template.graph, dict[Decomposition, int]()
    for name, layout in matrix_layouts(graph).items():
        shape = graph.initializers[name].shape
        count, rows, columns = layout.sizes(() if shape is None else tuple(shape.numpy()))
        least = min(rows, columns)
        every = [(least, max(rows, columns), max(least // len(models), 1))] * len(models)
        for each in [*every, (least, rows, least), (least, columns, least)]:
            found[each] = found.get(each, 0) + count
    return found


def _products(typing: Typing, space: str, samples: int) -> int:
    """Multiply-adds of one product of all units of a space over all its taps."""
    units = math.prod(composite_shape(space, typing.spaces))
    rows = 0.0
    for tensor in typing.taps[space]:
        blocks = [block for block in typing.activations[tensor].blocks if space in block.spaces]
        elements = sum(math.prod(axis.positions.size for axis in block.axes) for block in blocks)
        rows += min(elements / units / ROWS, POSITIONS)
    return round(units * units * rows * samples)


def measure(
    models: Sequence[Path], data: Path | None, samples: int, found: Work, folder: Path, base: Path | None
) -> Floor:
    """Measure the floor now, on this machine as it is."""
    return Floor(
        _forward(models, data, samples) if data is not None else 0.0,
        (found.by_weights + found.by_activations) / _multiply_adds_a_second(),
        sum(count * _assignment(size) for size, count in found.assignments.items()),
        sum(count * _decomposition(*shape) for shape, count in found.decompositions.items()) / cores_of_process(),
        _disk([*models, *([] if base is None else [base])], folder),
    )


def _forward(models: Sequence[Path], data: Path, samples: int) -> float:
    """Every parent over the samples once; opening the sessions counts."""
    feeds: list[Mapping[str, NDArray[Any]]] = []
    seconds = 0.0
    for path in models:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        started = time.perf_counter()
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        seconds += time.perf_counter() - started
        if not feeds:
            specs = input_specs(load([path]).template.model)
            feeds = list(open_source(data, specs, samples=samples, batch_size=BATCH))
        started = time.perf_counter()
        for feed in feeds:
            session.run(None, dict(feed))
        seconds += time.perf_counter() - started
    return seconds


def _multiply_adds_a_second(size: int = 1024) -> float:
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return size**3 / best


def _assignment(size: int) -> float:
    similarity = np.random.default_rng(0).standard_normal((size, size))
    started = time.perf_counter()
    scipy.optimize.linear_sum_assignment(similarity, maximize=True)
    return time.perf_counter() - started


def _decomposition(rows: int, columns: int, kept: int) -> float:
    """Processor seconds of one decomposition."""
    matrix = np.random.default_rng(0).standard_normal((rows, columns))
    started = time.process_time()
    scipy.linalg.eigh(matrix @ matrix.T, subset_by_index=(rows - kept, rows - 1), check_finite=False)
    return time.process_time() - started


def _disk(models: Sequence[Path], folder: Path) -> float:
    """All parents read, and as much as one of them written and brought to the disk."""
    every = [sorted({path, *data_files(path)}) for path in models]
    started = time.perf_counter()
    for path in (path for paths in every for path in paths):
        with path.open("rb", buffering=0) as stream:
            while stream.read(CHUNK):
                pass
    left, target, chunk = sum(path.stat().st_size for path in every[0]), folder / "written", bytes(CHUNK)
    with target.open("wb", buffering=0) as stream:
        while left > 0:
            left -= stream.write(chunk[: min(left, CHUNK)])
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds
