"""The merged model of one pretraining: its origin with the merged task vector added, tensor by tensor.

The models must come from one pretraining. No units are matched: a unit is taken to be the same unit in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from onnxmerge.contracts import Options
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.combine import mean_of
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors, mean_vector
from onnxmerge.model.arrays import all_finite, identical, is_floating, pieces
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.matrices import MatrixLayout, layer_depths, matrix_layouts
from onnxmerge.model.network import ModelSet
from onnxmerge.types import Array, Arrays, Floats, Positions
from onnxmerge.units.layout import TensorLayout, Typing


def add_task_vectors(
    models: ModelSet,
    base: Arrays | None,
    typing: Typing,
    method: TaskVectorMethod[Any],
    options: Options,
    shares: Sequence[float],
    *,
    seed: int = 0,
) -> LazyWeights:
    """The origin of the ``method`` with the merged task vector of ``models`` added; computed when read.

    Names are the template's. Sums are formed in float64 and cast back to the stored type. What is equal in the base and
    all models keeps its bits. Running statistics say what a network met, not what it learnt; they become the mean of
    the models'. Reading a tensor that is not a float and differs anywhere raises InputError, naming it.
    """
    _require_named(models, options)
    layouts = matrix_layouts(models.template.graph) if method.matrices else {}
    depths = layer_depths(models.template.graph) if isinstance(options, Scaled) and options.depth else {}
    weights = [share * len(models.weights) for share in shares]

    def merged(name: str) -> Array:
        every = [model[name] for model in models.weights]  # read once, whether they are mapped or computed
        own = every[0] if base is None else base[name]
        if all(identical(own, tuned) for tuned in every):
            return own
        if name in typing.statistics:
            return mean_of(name, every, shares)
        if not is_floating(own.dtype) or own.dtype.kind == "c":
            raise InputError(
                f"initializer {name} ({own.dtype}): differs between the models and their base in values that cannot be "
                "added up; expected equal ones"
            )
        learnt = _Learnt(
            name, _origin(method, None if base is None else own, name, every, shares), every, weights, seed
        )
        scale = options.scale_of(name, depths.get(name, 0.5)) if isinstance(options, Scaled) else 1.0
        if name in layouts:
            found = _by_matrices(layouts[name], typing.initializers.get(name), method, learnt, options)
        else:
            found = mean_vector(learnt.whole) if method.matrices else method.rule(learnt.whole, options)
        return learnt.added(scale, found, own.dtype)

    return LazyWeights(models.weights[0], merged)


def memory_taken(models: ModelSet, method: TaskVectorMethod[Any]) -> Mapping[str, int]:
    """About how many bytes each initializer of the template takes while it is computed."""
    graph, found = models.template.graph, dict[str, int]()
    layouts = matrix_layouts(graph) if method.matrices else {}
    for name in models.weights[0]:
        shape = tuple(models.template.weights.tensor(name).shape.numpy())
        count, rows, columns = layouts[name].sizes(shape) if name in layouts else (1, 1, math.prod(shape))
        found[name] = count * method.takes(rows, columns, len(models.weights))
    return found


def _require_named(models: ModelSet, options: Options) -> None:
    """Raise UsageError for a rule that names no initializer."""
    for rule in options.parameters if isinstance(options, Scaled) else ():
        if not any(fnmatchcase(name, rule.filter) for name in models.weights[0]):
            raise UsageError(f"parameters {rule.filter!r}: no initializer of {models.template.label} has such a name")


def _origin(
    method: TaskVectorMethod[Any], base: Array | None, name: str, every: Sequence[Array], shares: Sequence[float]
) -> Array:
    """What the task vectors of one tensor start from, in a float type."""
    if method.origin == "mean":
        return mean_of(name, (tuned.astype(np.float64) for tuned in every), shares)
    return np.broadcast_to(np.float64(0), every[0].shape) if base is None else base


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
    """One tensor of all models, as it is stored, and of their ``start``: task vectors are formed of parts of it."""

    name: str
    start: Array
    every: Sequence[Array]
    weights: Sequence[float]
    seed: int

    @property
    def whole(self) -> TaskVectors:
        """The task vectors of the tensor."""
        flat = self.start.reshape(-1), [tuned.reshape(-1) for tuned in self.every]

        def part(index: int, piece: slice) -> Floats:
            return _difference(flat[1][index][piece], flat[0][piece])

        def read(index: int) -> Floats:
            return _difference(self.every[index], self.start)

        return TaskVectors(self.name, self.start.shape, self.weights, read, self.seed, part)

    def of_matrix(self, layout: MatrixLayout, index: int, rows: Positions, piece: int) -> TaskVectors:
        """Those of some rows of a matrix, which are the whole where there is one ``piece`` of it."""
        start, *every = (layout.matrix(each, index) for each in (self.start, *self.every))
        chosen = slice(None) if len(rows) == len(start) else rows
        return TaskVectors(
            f"{self.name}[{piece}]",
            (len(rows), start.shape[1]),
            self.weights,
            lambda model: _difference(every[model][chosen], start[chosen]),
            self.seed,
        )

    def added(self, scale: float, vector: Floats, dtype: np.dtype[Any]) -> Array:
        """The start with a merged task vector; an infinity that a model learnt to mask with is kept."""
        found = np.empty(self.start.shape, dtype)
        into, start, more = found.reshape(-1), self.start.reshape(-1), vector.reshape(-1)
        every = [tuned.reshape(-1) for tuned in self.every if not all_finite(tuned)]
        for piece in pieces(into.size):
            total = np.asarray(start[piece].astype(np.float64) + scale * more[piece])
            for tuned in every:
                own = tuned[piece].astype(np.float64)
                total = np.where(np.isfinite(total) & np.isinf(own), own, total)
            into[piece] = total.astype(dtype)
        return found


def _difference(tuned: Array, start: Array) -> Floats:
    """What one model learnt, float64; nothing where a mask's -inf stands: nothing can be added to it."""
    found, before = tuned.astype(np.float64), start.astype(np.float64, copy=False)
    if all_finite(found) and all_finite(before):
        found -= before
        return found
    return np.subtract(found, before, out=np.zeros(found.shape), where=np.isfinite(found) & np.isfinite(before))


def _by_matrices(
    layout: MatrixLayout,
    units: TensorLayout | None,
    method: TaskVectorMethod[Any],
    learnt: _Learnt,
    options: Options,
) -> Floats:
    """The merged task vector of an initializer, each of the matrices in it by itself."""
    count, out, into = layout.sizes(learnt.start.shape)
    parts = [(matrix, rows) for matrix in range(count) for rows in _packed(layout, units, out, len(learnt.every))]
    if len(parts) == 1:
        only = method.rule(learnt.of_matrix(layout, 0, parts[0][1], 0), options)
        return layout.restored(only[None], learnt.start.shape)
    found = np.zeros((count, out, into))
    for piece, (matrix, rows) in enumerate(parts):
        found[matrix, rows] = method.rule(learnt.of_matrix(layout, matrix, rows, piece), options)
    return layout.restored(found, learnt.start.shape)


def _packed(layout: MatrixLayout, units: TensorLayout | None, out: int, models: int) -> list[Positions]:
    """The rows of each projection that a matrix is packed of, such as q, k and v: all rows where it is one.

    Rows belong together that the same units are read from. Parts of fewer rows than there are models stay together:
    they have no directions to tell the models apart by.
    """
    whole = [np.arange(out)]
    if units is None or layout.split is not None or len(layout.out) > 1:
        return whole
    (axis,) = layout.out
    covers: list[set[int]] = [set() for _ in range(out)]
    for index, block in enumerate(units.blocks):
        for row in block.axes[axis].positions.reshape(-1).tolist():
            covers[row].add(index)
    parts: dict[frozenset[int], list[int]] = {}
    for place, blocks in enumerate(covers):
        parts.setdefault(frozenset(blocks), []).append(place)
    found = [np.array(rows) for rows in parts.values()]
    return found if min(map(len, found)) >= models else whole
