"""The merged model of one pretraining: its origin with the merged task vector added, tensor by tensor.

The models must come from one pretraining. No units are matched: a unit is taken to be the same unit in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from onnxmerge.contracts import Options
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.combine import mean_of
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors, mean_vector
from onnxmerge.model.arrays import identical, is_floating
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
        own = models.weights[0][name] if base is None else base[name]
        if all(identical(own, model[name]) for model in models.weights):
            return own
        if name in typing.statistics:
            return mean_of(name, (model[name] for model in models.weights), shares)
        if not is_floating(own.dtype) or own.dtype.kind == "c":
            raise InputError(
                f"initializer {name} ({own.dtype}): differs between the models and their base in values that cannot be "
                "added up; expected equal ones"
            )
        start = _origin(method, own if base is not None else None, name, models, shares)
        vectors = TaskVectors(name, start.shape, weights, partial(_learnt, start, name, models), seed)
        scale = options.scale_of(name, depths.get(name, 0.5)) if isinstance(options, Scaled) else 1.0
        if name in layouts:
            found = _by_matrices(layouts[name], typing.initializers.get(name), method, vectors, options)
        else:
            found = mean_vector(vectors) if method.matrices else method.rule(vectors, options)
        total = np.asarray(start + scale * found)
        for model in models.weights:  # an infinity that a model learnt to mask with is kept
            tuned = model[name].astype(np.float64)
            total = np.where(np.isfinite(total) & np.isinf(tuned), tuned, total)
        return total.astype(own.dtype)

    return LazyWeights(models.weights[0], merged)


def _require_named(models: ModelSet, options: Options) -> None:
    """Raise UsageError for a rule that names no initializer."""
    for rule in options.parameters if isinstance(options, Scaled) else ():
        if not any(fnmatchcase(name, rule.filter) for name in models.weights[0]):
            raise UsageError(f"parameters {rule.filter!r}: no initializer of {models.template.label} has such a name")


def _origin(
    method: TaskVectorMethod[Any], base: Array | None, name: str, models: ModelSet, shares: Sequence[float]
) -> Floats:
    """What the task vectors of one tensor start from, float64."""
    if method.origin == "mean":
        return mean_of(name, (model[name].astype(np.float64) for model in models.weights), shares)
    return np.zeros(models.weights[0][name].shape) if base is None else base.astype(np.float64)


def _learnt(start: Floats, name: str, models: ModelSet, index: int) -> Floats:
    """The task vector of one model; nothing is learnt where a mask's -inf stands: nothing can be added to it."""
    tuned = models.weights[index][name].astype(np.float64)
    return np.subtract(tuned, start, out=np.zeros(start.shape), where=np.isfinite(start) & np.isfinite(tuned))


def _by_matrices(
    layout: MatrixLayout,
    units: TensorLayout | None,
    method: TaskVectorMethod[Any],
    vectors: TaskVectors,
    options: Options,
) -> Floats:
    """The merged task vector of an initializer, each of the matrices in it by itself."""
    stack = np.stack([layout.matrices(vectors.read(index)) for index in range(len(vectors))])
    found = np.zeros(stack.shape[1:])
    for piece, (matrix, rows) in enumerate(
        (matrix, rows) for matrix in range(stack.shape[1]) for rows in _packed(layout, units, stack.shape, vectors)
    ):
        own = TaskVectors(
            f"{vectors.name}[{piece}]",
            (len(rows), stack.shape[3]),
            vectors.weights,
            partial(_piece, stack[:, matrix], rows),
            vectors.seed,
        )
        found[matrix, rows] = method.rule(own, options)
    return layout.restored(found, vectors.shape)


def _piece(stack: Floats, rows: Positions, index: int) -> Floats:
    return np.asarray(stack[index][rows])


def _packed(
    layout: MatrixLayout, units: TensorLayout | None, shape: tuple[int, ...], vectors: TaskVectors
) -> list[Positions]:
    """The rows of each projection that a matrix is packed of, such as q, k and v: all rows where it is one.

    Rows belong together that the same units are read from. Parts of fewer rows than there are models stay together:
    they have no directions to tell the models apart by.
    """
    whole = [np.arange(shape[2])]
    if units is None or layout.split is not None or len(layout.out) > 1:
        return whole
    (axis,) = layout.out
    covers: list[set[int]] = [set() for _ in range(shape[2])]
    for index, block in enumerate(units.blocks):
        for row in block.axes[axis].positions.reshape(-1).tolist():
            covers[row].add(index)
    parts: dict[frozenset[int], list[int]] = {}
    for place, blocks in enumerate(covers):
        parts.setdefault(frozenset(blocks), []).append(place)
    found = [np.array(rows) for rows in parts.values()]
    return found if min(map(len, found)) >= len(vectors) else whole
