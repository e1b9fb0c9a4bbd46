"""Which units are shared: in each group the most similar ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.arrays import is_floating
from onnxmerge.resizing.layout import Budget
from onnxmerge.types import Arrays, Floats, Positions
from onnxmerge.units.layout import Block, TensorLayout, Typing
from onnxmerge.units.permutations import block_content, transported


def shared_units(share: float, size: int) -> int:
    """How many of ``size`` units are shared."""
    return round(share * size)


def budget_of(similarity: Floats, share: float, parents: int) -> Budget:
    """Share the fraction ``share`` of the units, those of the highest similarity; the first among equals."""
    count = shared_units(share, similarity.size)
    order = np.argsort(-similarity, kind="stable")
    return Budget(np.sort(order[:count]), np.sort(order[count:]), parents)


def similarity_in_weights(
    spaces: Collection[str], typing: Typing, parents: Sequence[Arrays], matchings: Sequence[Mapping[str, Positions]]
) -> dict[str, Floats]:
    """Pearson correlation of the weight vectors of matched units, the mean over parents but the first, by space.

    A unit's weight vector are its slices of all initializers but running statistics, with everything that is inside of
    it (the units of a head); 0 where it does not vary.
    """
    aligned = [transported(own, typing, perms) for own, perms in zip(parents[1:], matchings, strict=True)]
    sums = {name: np.zeros((len(aligned), 5, typing.spaces[name].size)) for name in spaces}
    counts = dict.fromkeys(spaces, 0)
    for tensor, layout in typing.initializers.items():
        found = [(block, slot) for block in layout.blocks for slot, name in enumerate(block.spaces) if name in sums]
        if tensor in typing.statistics or not found or not is_floating(parents[0][tensor].dtype):
            continue
        first, others = parents[0][tensor], [own[tensor] for own in aligned]
        for block, slot in found:
            space = block.spaces[slot]
            x = _rows(first, layout, block, slot, typing)
            counts[space] += x.shape[1]
            for index, other in enumerate(others):
                y = _rows(other, layout, block, slot, typing)
                sums[space][index] += [x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]
    return {space: _correlation(sums[space], counts[space]).mean(axis=0) for space in spaces}


def _rows(array: NDArray[Any], layout: TensorLayout, block: Block, slot: int, typing: Typing) -> NDArray[np.float64]:
    """A block of a tensor with the units of one of its slots as rows."""
    sizes = [typing.spaces[name].size for name in block.spaces]
    content = block_content(array, layout, block, typing.spaces, {}).reshape(sizes)
    return np.moveaxis(content, slot, 0).reshape(sizes[slot], -1).astype(np.float64)


def _correlation(sums: Floats, count: int) -> Floats:
    """[parents, units] from sums of x, y, x^2, y^2 and x y."""
    x, y, xx, yy, xy = (sums[:, index] for index in range(5))
    scale = np.sqrt(np.maximum(count * xx - x * x, 0.0) * np.maximum(count * yy - y * y, 0.0))
    ratio: Floats = np.divide(count * xy - x * y, scale, out=np.zeros_like(scale), where=scale > 0)
    return ratio
