"""Carry tensors along a zip: units of all models are merged, and each model's weights with them.

A zip says for each unit of each model which merged unit it becomes part of; several units of one model may become one,
and a merged unit may have no part of some model. With U_m [n, width] the membership of model m's units, N the number
of members of each merged unit in all models (``width`` is n, or what ``Zipped.widths`` says):

    merge_m = diag(1/N) U_m^T     a merged unit is the mean of its members,
    unmerge_m = U_m               each member reads the merged unit.

An axis that gives units is multiplied by merge_m, one that takes them in (``Typing.consumed``) by unmerge_m, and the
models are added up (Stoica et al., ZipIt!, ICLR 2024, arXiv 2305.03053, section 4.2). Both add up members, so one
operation serves for both; only what an entry is divided by differs: the members on the axes that give units, all of
them together. Where a tensor gives no units, or fixed ones, each model counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.types import Floats, Positions
from onnxmerge.units.layout import Block, Space, TensorLayout, Typing
from onnxmerge.units.permutations import Slot, bind, composite_shape, covers, require_shape
from onnxmerge.units.resize import Widths, resized_layout, resized_spaces

Projections: TypeAlias = Mapping[str, Positions]
"""Space id -> int64 [*sizes of ``varies_with``, size]: ``labels[o1, ..., u]`` is the merged unit that the model's unit
u becomes part of, where o1, ... are the model's own indices of the outer spaces. A space that is absent does not move.
A space inside of which others vary must be permuted: every outer unit keeps its size."""


@dataclass(frozen=True, slots=True, eq=False)
class Zipped:
    """What a zip found: the projections of each model, the first included.

    ``widths`` says how many merged units a plain space has where that is not the number of a model's units.
    """

    models: tuple[Projections, ...]
    widths: Widths = field(default_factory=dict)


Matchings: TypeAlias = Sequence[Mapping[str, Positions]] | Zipped
"""How the models' units correspond: permutations that bring each model but the first to it, or a zip of them all."""


def identity_zip(spaces: Mapping[str, Space]) -> dict[str, Positions]:
    """The projections that leave every unit in its place: unit u of this model becomes part of merged unit u."""
    shapes = {name: composite_shape(name, spaces) for name, space in spaces.items() if space.free}
    return {name: np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape).copy() for name, shape in shapes.items()}


def zipped(
    arrays: Iterable[NDArray[Any]], layout: TensorLayout, typing: Typing, zips: Zipped, shares: Sequence[float]
) -> Floats:
    """The merged tensor: for each entry the mean of its members, over all models and the units that they give.

    ``shares`` weigh the models. An entry without members (units of which no model has both) is 0.
    """
    merged = resized_layout(layout, zips.widths)
    sums = [np.zeros([axis.positions.size for axis in block.axes]) for block in merged.blocks]
    for array, labels, share in zip(arrays, zips.models, shares, strict=True):
        if share != 0:  # a mask's -inf must not turn into nan
            require_shape(array, layout)
            for index, block in enumerate(layout.blocks):
                added = project(array, layout, block, typing.spaces, labels, widths=zips.widths)
                sums[index] += share * added.reshape(sums[index].shape)
    out = np.zeros(merged.shape)
    spaces = resized_spaces(typing.spaces, zips.widths)
    for total, block, own in zip(sums, merged.blocks, layout.blocks, strict=True):
        members = member_counts(layout, own, typing, zips, shares)
        grid = slot_sizes(block, spaces)
        mean = np.divide(total.reshape(grid), members, out=np.zeros(grid), where=members > 0)
        out[np.ix_(*(axis.positions.reshape(-1) for axis in block.axes))] = mean.reshape(total.shape)
    return out


def project(
    array: NDArray[Any],
    layout: TensorLayout,
    block: Block,
    spaces: Mapping[str, Space],
    labels: Projections,
    slots: Collection[Slot] | None = None,
    *,
    widths: Widths | None = None,
) -> Floats:
    """The block's content with the units that become one added up, one dimension for each slot.

    With ``slots`` only those move; the others stay in the model's own order. ``widths`` are those of the zip.
    """
    plain = len(layout.blocks) == 1 and covers(block, layout.shape)
    content = array if plain else array[np.ix_(*(axis.positions.reshape(-1) for axis in block.axes))]
    content = content.reshape(slot_sizes(block, spaces))
    return _add_up(content, layout, block, spaces, labels, slots=slots, widths=widths or {})


def member_counts(
    layout: TensorLayout,
    block: Block,
    typing: Typing,
    zips: Zipped,
    shares: Sequence[float],
    slots: Collection[Slot] | None = None,
) -> Floats:
    """How many members the entries of a block have on the axes that give units, weighted by ``shares``.

    One dimension for each slot, of length 1 where the number does not depend on it. With ``slots`` only those count.
    """
    spaces = typing.spaces
    giving = {
        slot
        for slot in slots_of(block)
        if _moves(block, slot, spaces, zips.models[0])
        and (layout.name, slot[0], _space(block, slot)) not in typing.consumed
        and (slots is None or slot in slots)
    }
    telling = giving | {outer for slot in giving for outer in bind(layout.name, block, slot, spaces)}
    every = zip(slots_of(block), slot_sizes(block, spaces), strict=True)
    sizes = [size if slot in telling else 1 for slot, size in every]
    moving = telling if slots is None else telling & set(slots)
    counts = [
        share * _add_up(np.ones(sizes), layout, block, spaces, labels, slots=moving, widths=zips.widths)
        for labels, share in zip(zips.models, shares, strict=True)
    ]
    return np.asarray(np.sum(counts, axis=0))


def slots_of(block: Block) -> list[Slot]:
    """The places where spaces stand in a block, axis by axis."""
    return [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]


def slot_sizes(block: Block, spaces: Mapping[str, Space]) -> list[int]:
    """The number of units at each slot."""
    return [spaces[name].size for name in block.spaces]


def _add_up(
    content: NDArray[Any],
    layout: TensorLayout,
    block: Block,
    spaces: Mapping[str, Space],
    labels: Projections,
    *,
    slots: Collection[Slot] | None,
    widths: Widths,
) -> Floats:
    """Add up the units of each slot by their labels, inner units first: their labels depend on the outer units."""
    every = slots_of(block)
    moving = [slot for slot in every if _moves(block, slot, spaces, labels) and (slots is None or slot in slots)]
    content = content.astype(np.float64, copy=False)
    for slot in sorted(moving, key=lambda slot: -len(spaces[_space(block, slot)].varies_with)):
        name = _space(block, slot)
        chain = [every.index(each) for each in (*bind(layout.name, block, slot, spaces), slot)]
        content = _add_up_slot(content, chain, labels[name], widths.get(name, spaces[name].size))
    return content


def _add_up_slot(content: Floats, chain: Sequence[int], labels: Positions, width: int) -> Floats:
    """Add up the units on the last axis of ``chain`` by labels that depend on the axes before it."""
    rest = [axis for axis in range(content.ndim) if axis not in chain]
    front = content.transpose([*chain, *rest])
    units = labels.size
    outer = units // max(labels.shape[-1], 1)
    target = (labels.reshape(outer, -1) + width * np.arange(outer)[:, None]).reshape(-1)
    flat = front.reshape(units, -1)
    if outer * width == units and np.array_equal(np.sort(target), np.arange(units)):
        added = np.empty_like(flat)
        added[target] = flat
    else:
        added = np.asarray(membership(target, outer * width) @ flat)
    shape = [*(content.shape[axis] for axis in chain[:-1]), width, *(content.shape[axis] for axis in rest)]
    return added.reshape(shape).transpose(np.argsort([*chain, *rest]))


def membership(targets: Positions, width: int) -> scipy.sparse.csc_array:
    """Which merged unit has which members: sparse [width, units], one entry a column."""
    units = targets.size
    return scipy.sparse.csc_array((np.ones(units), targets.reshape(-1), np.arange(units + 1)), shape=(width, units))


def _space(block: Block, slot: Slot) -> str:
    return block.axes[slot[0]].spaces[slot[1]]


def _moves(block: Block, slot: Slot, spaces: Mapping[str, Space], labels: Projections) -> bool:
    name = _space(block, slot)
    return name in labels and spaces[name].free
