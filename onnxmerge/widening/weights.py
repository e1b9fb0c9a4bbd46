"""The weights of a widened network.

A unit that a parent keeps reads everything with that parent's weights, and of the other parents' own units nothing. A
shared unit (or one of a group that is not widened, an output before all) reads shared units with the mean weights and
each parent's own units with that parent's weights times its share, so that equal parents give what each gave.
METHODS.md and PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447), section 4.3, have the same four cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Positions, TensorLayout, Typing
from onnxmerge.merging.combine import LazyWeights, transported
from onnxmerge.widening.layout import Budgets, widened_axes

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


def widened(
    merged: Arrays,
    parents: Sequence[Arrays],
    typing: Typing,
    matchings: Sequence[Mapping[str, Positions]],
    budgets: Budgets,
    shares: Sequence[float],
) -> LazyWeights:
    """The weights of the network with wider groups, computed when read.

    ``merged`` are the mean weights, ``parents`` those of each parent, in its own order of units; ``matchings`` has one
    entry for each parent but the first, ``shares`` one for each parent: its weight in the mean.
    """
    aligned = [transported(own, typing, perms) for own, perms in zip(parents, [{}, *matchings], strict=True)]

    def wide(name: str) -> NDArray[Any]:
        layout = typing.initializers.get(name)
        axes = {} if layout is None else widened_axes(layout, budgets)
        if layout is None or not axes:
            return merged[name]
        return _widen(merged[name], [own[name] for own in aligned], layout, axes, typing, budgets, shares=shares)

    return LazyWeights(merged, wide)


def _widen(
    mean: NDArray[Any],
    parents: Sequence[NDArray[Any]],
    layout: TensorLayout,
    axes: Mapping[int, str],
    typing: Typing,
    budgets: Budgets,
    *,
    shares: Sequence[float],
) -> NDArray[Any]:
    sources = np.ix_(
        *(budgets[axes[axis]].sources() if axis in axes else np.arange(size) for axis, size in enumerate(layout.shape))
    )
    # On each axis -1 stands for shared units; the owner of an entry is that of all its units that are not shared.
    owners = []
    for axis, space in axes.items():
        shape = [1] * len(layout.shape)
        shape[axis] = -1
        owners.append(budgets[space].owners().reshape(shape))
    giving = [
        owner
        for (axis, space), owner in zip(axes.items(), owners, strict=True)
        if (layout.name, axis, space) not in typing.consumed
    ]
    out = mean.astype(np.float64)[sources]
    owner = _highest(owners)
    kept = _highest(giving) if giving else np.full((), -1)
    for m, own in enumerate(parents):
        part = own.astype(np.float64)[sources]
        out = np.where(owner == m, np.where(kept == m, part, part * shares[m]), out)
    for one in owners:
        out = np.where((one >= 0) & (one != owner), 0.0, out)
    return out.astype(mean.dtype)


def _highest(owners: Sequence[Positions]) -> Positions:
    """Of the owners on several axes the highest, broadcast; -1 where all are shared."""
    found = owners[0]
    for owner in owners[1:]:
        found = np.maximum(found, owner)
    return found
