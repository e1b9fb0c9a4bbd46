"""One member of each merged unit stands for it, in place of the mean of them all.

The mean of two units behind a nonlinearity is no unit that one network of this width can compute; one of the two is.
What read the other has to make do with it, so this is for merges whose layers are solved anew (``--refine ls``): what a
layer can be solved for depends on which units it reads, not on how they were averaged. The member that stands for the
others is the one that says most to what reads it: by its deviation over the data times the length of the weights that
take it in, as a share of what all units of its model say there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.arrays import is_floating
from onnxmerge.types import Floats
from onnxmerge.units.layout import Typing
from onnxmerge.units.rotation import places, units_of
from onnxmerge.units.zips import Zipped


def with_exemplars(
    zips: Zipped,
    typing: Typing,
    weights: Sequence[Mapping[str, NDArray[Any]]],
    deviations: Sequence[Mapping[str, Floats]],
    shares: Sequence[float],
) -> Zipped:
    """The zip, in which one member counts of each merged unit of every plain space that no other varies with.

    An outer unit (a head, a channel group) stays the mean: its inner units are of all models, zipped inside it.

    Args:
        zips: Which units become one.
        typing: Of the models.
        weights: Of each model, in its own order.
        deviations: For each model the deviation of its units [n], by space; 1 for those of spaces that were not seen.
        shares: Of the models in the merge.

    """
    counts: list[dict[str, Floats]] = [{} for _ in zips.models]
    outer = {name for space in typing.spaces.values() for name in space.varies_with}
    for name, labels in zips.models[0].items():
        if labels.ndim > 1 or name in outer:
            continue
        said = [
            _lengths(own, typing, name) * seen.get(name, 1.0) for own, seen in zip(weights, deviations, strict=True)
        ]
        flat = np.concatenate([own / (own.sum() or 1.0) * share for own, share in zip(said, shares, strict=True)])
        exemplar = _largest(np.concatenate([own[name] for own in zips.models]), flat)
        for own, part in zip(counts, np.split(exemplar, len(said)), strict=True):
            own[name] = part
    return replace(zips, counts=tuple(counts))


def _lengths(weights: Mapping[str, NDArray[Any]], typing: Typing, name: str) -> Floats:
    """The length of all weights that take each unit [n] of a plain space in; of those that give it where none does."""
    taken, given = (np.zeros(typing.spaces[name].size) for _ in range(2))
    for layout in typing.initializers.values():
        for block, slot in places(layout, name):
            if is_floating(weights[layout.name].dtype):
                rows = units_of(weights[layout.name], layout, block, slot, typing.spaces)
                squares = taken if (layout.name, slot[0], name) in typing.consumed else given
                squares += np.einsum("uf,uf->u", rows, rows)
    return np.asarray(np.sqrt(taken if taken.any() else given))


def _largest(labels: NDArray[np.int64], values: Floats) -> Floats:
    """1 for the member with the largest value of each label, the first of equals; 0 for all others."""
    order = np.lexsort((-values, labels))
    found = np.zeros(values.size)
    found[order[np.unique(labels[order], return_index=True)[1]]] = 1.0
    return found
