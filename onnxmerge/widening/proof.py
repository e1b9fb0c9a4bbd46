"""Which groups can be widened: found out on the model itself, by merging the first parent with itself.

With half of its units apart it must still give its own outputs. What reads a group as a whole (LayerNorm, Softmax, an
inner product of two activations) or states its size where it cannot be changed does not, and such a group stays
shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Typing
from onnxmerge.errors import InputError
from onnxmerge.merging.combine import is_floating
from onnxmerge.model.network import ModelSet
from onnxmerge.model.session import open_session, run
from onnxmerge.validation.comparison import TOLERANCES
from onnxmerge.widening.layout import Budget, Budgets, widened_axes
from onnxmerge.widening.network import wide_network
from onnxmerge.widening.weights import widened

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


def provable(names: Sequence[str], models: ModelSet, typing: Typing, sample: Arrays) -> list[str]:
    """Those of the spaces that can be widened, each by itself and all of these together."""
    outputs = [str(value.name) for value in models.template.graph.outputs]
    expected = run(open_session(models.template.model, outputs=outputs), sample)
    proved = []
    for name in names:
        half = {name: _half(typing.spaces[name].size)}
        if _holds(half, models, typing, sample, expected):
            proved.append(name)
    together = {name: _half(typing.spaces[name].size) for name in proved}
    return proved if not together or _holds(together, models, typing, sample, expected) else []


def _half(size: int) -> Budget:
    return Budget(np.arange(size // 2), np.arange(size // 2, size), 2)


def _holds(budgets: Budgets, models: ModelSet, typing: Typing, sample: Arrays, expected: Arrays) -> bool:
    """Whether the first parent, merged with itself, gives its own outputs, to each parent in its own places."""
    network = wide_network(models.template, typing, budgets)
    first = models.weights[0]
    weights = widened(first, (first, first), typing, ({},), budgets, (0.5, 0.5))
    try:
        found = run(open_session(network.model, weights=weights, outputs=list(expected)), sample)
    except InputError:
        return False
    return all(
        _same(array, _read(name, found[name], typing, budgets, parent))
        for name, array in expected.items()
        for parent in (0, 1)
    )


def _read(name: str, array: NDArray[Any], typing: Typing, budgets: Budgets, parent: int) -> NDArray[Any]:
    """An output as one parent's tail reads it."""
    layout = typing.activations.get(name)
    for axis, space in ({} if layout is None else widened_axes(layout, budgets)).items():
        if array.shape[axis] != budgets[space].width:
            return np.empty(0)
        array = np.take(array, budgets[space].places(parent), axis=axis)
    return array


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape:
        return False
    if not is_floating(one.dtype):
        return bool(np.array_equal(one, other))
    wide, after = one.astype(np.float64), other.astype(np.float64)
    scale = float(np.max(np.abs(wide), initial=0.0))
    return bool(np.all(np.abs(wide - after) <= TOLERANCES.get(one.dtype.name, 1e-4) * scale))
