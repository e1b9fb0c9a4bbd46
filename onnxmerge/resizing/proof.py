"""Which groups can have another width: found out on the model itself, by merging the first parent with itself.

With half of its units apart it must still give its own outputs. What reads a group as a whole (LayerNorm, Softmax, an
inner product of two activations) or states its size where it cannot be changed does not, and such a group keeps
its width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.combine import combine
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import TOLERANCES
from onnxmerge.model.network import ModelSet
from onnxmerge.model.session import open_session
from onnxmerge.resizing.layout import Budget, apart
from onnxmerge.resizing.network import resized_network
from onnxmerge.types import Arrays
from onnxmerge.units.alignment import reordered
from onnxmerge.units.layout import Typing
from onnxmerge.units.resize import resized_layout, resized_orders
from onnxmerge.units.zips import Zipped


def provable(names: Sequence[str], models: ModelSet, typing: Typing, sample: Arrays) -> list[str]:
    """Those of the spaces that can have another width, all of them together.

    What is read as a whole stands in many tensors, as a residual stream does, so the search has these side by side.
    """
    outputs = [str(value.name) for value in models.template.graph.outputs]
    expected = open_session(models.template.model, outputs=outputs).run(sample)

    def holds(spaces: Sequence[str]) -> bool:
        return _holds(_half_apart(spaces, typing), models, typing, sample, expected)

    spread = Counter(
        name for layout in typing.initializers.values() for block in layout.blocks for name in block.spaces
    )
    found = _largest(sorted(names, key=lambda name: -spread[name]), holds)
    return [name for name in names if name in found]


def _largest(names: list[str], holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """As many of the names as hold together: most do, so halves are tried before single ones."""
    if not names or holds(names):
        return names
    if len(names) == 1:
        return []
    middle = len(names) // 2
    found = _largest(names[:middle], holds)
    others = _largest(names[middle:], holds)
    if not found or not others or holds([*found, *others]):
        return [*found, *others]
    for name in others:
        found += [name] if holds([*found, name]) else []
    return found


def _half_apart(names: Sequence[str], typing: Typing) -> Zipped:
    """The zip of a model with itself in which half of these spaces' units stay apart."""
    sizes = {name: typing.spaces[name].size for name in names}
    budgets = {name: Budget(np.arange(size // 2), np.arange(size // 2, size), 2) for name, size in sizes.items()}
    return apart(budgets, [{name: np.arange(size) for name, size in sizes.items()}] * 2)


def _holds(zips: Zipped, models: ModelSet, typing: Typing, sample: Arrays, expected: Arrays) -> bool:
    """Whether the first parent, merged with itself, gives its own outputs, to each parent in its own places."""
    network = resized_network(models, typing, zips.widths)
    twice = replace(models, weights=(models.weights[0],) * 2, sources=(models.sources[0],) * 2, owned=None)
    try:
        weights = combine(twice, typing, zips)
        found = open_session(network.model, weights=weights, outputs=list(expected)).run(sample)
    except InputError:
        return False
    return all(
        same_output(array, _read(name, found[name], typing, zips, parent))
        for name, array in expected.items()
        for parent in (0, 1)
    )


def _read(name: str, array: NDArray[Any], typing: Typing, zips: Zipped, parent: int) -> NDArray[Any]:
    """An output as one parent's tail reads it."""
    layout = typing.activations.get(name)
    if layout is None:
        return array
    orders = resized_orders(layout, typing.spaces, zips.widths, zips.models[parent])
    sizes = resized_layout(layout, zips.widths).shape
    if orders is None or any(array.shape[axis] != sizes[axis] for axis in orders):
        return np.empty(0)
    return reordered(array, orders)


def same_output(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two outputs are the same up to rounding."""
    if one.shape != other.shape:
        return False
    if not is_floating(one.dtype):
        return bool(np.array_equal(one, other))
    wide, after = one.astype(np.float64), other.astype(np.float64)
    scale = float(np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide)))
    with np.errstate(invalid="ignore"):  # an infinity less itself: logits of tokens that are ruled out
        near = np.abs(wide - after) <= TOLERANCES.get(one.dtype.name, 1e-4) * scale
    return bool(np.all(near | (wide == after)))
