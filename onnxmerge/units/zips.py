"""Carry tensors along a zip: units of all models are merged, and each model's weights with them.

A zip says for each unit of each model which merged unit it becomes part of; several units of one model may become one,
and a merged unit may have no part of some model. With U_m [n, width] the membership of model m's units, N the number
of members of each merged unit in all models (``width`` is n, or what ``Zipped.widths`` says):

    merge_m = diag(1/N) U_m^T     a merged unit is the mean of its members,
    unmerge_m = U_m               each member reads the merged unit.

Members may count differently in that mean (``Zipped.counts``): with c_m [n] what each counts, merge_m = diag(1/N)
U_m^T diag(c_m), and N their sum. A member that counts 0 gives nothing, and those that read it read the merged unit.

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
    ``counts[m]`` says of plain spaces what each unit [n] of model m counts in the mean of its merged unit; each counts
    1 in a space that is absent, or of models that are.
    """

    models: tuple[Projections, ...]
    widths: Widths = field(default_factory=dict)
    counts: tuple[Mapping[str, Floats], ...] = ()

    def counts_of(self, model: int) -> Mapping[str, Floats]:
        """What the units of one model count, by space."""
        return self.counts[model] if self.counts else {}


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
    for model, (array, share) in enumerate(zip(arrays, shares, strict=True)):
        if share != 0:  # a mask's -inf must not turn into nan
            require_shape(array, layout)
            for index, block in enumerate(layout.blocks):
                content = _content(array, layout, block, typing.spaces)
                for slot, counts in _counts(layout, block, typing, zips, model).items():
                    content = content * along(counts, slots_of(block).index(slot), content.ndim)
                added = _add_up(content, layout, block, typing.spaces, zips.models[model], widths=zips.widths)
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
    content = _content(array, layout, block, spaces)
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
        if _gives(layout, block, slot, typing, zips) and (slots is None or slot in slots)
    }
    telling = giving | {outer for slot in giving for outer in bind(layout.name, block, slot, spaces)}
    every = zip(slots_of(block), slot_sizes(block, spaces), strict=True)
    sizes = [size if slot in telling else 1 for slot, size in every]
    moving = telling if slots is None else telling & set(slots)
    found = []
    for model, (labels, share) in enumerate(zip(zips.models, shares, strict=True)):
        ones = np.ones(sizes)
        for slot, own in _counts(layout, block, typing, zips, model).items():
            if slot in giving:
                ones = ones * along(own, slots_of(block).index(slot), len(sizes))
        found.append(share * _add_up(ones, layout, block, spaces, labels, slots=moving, widths=zips.widths))
    return np.asarray(np.sum(found, axis=0))


def position_counts(layout: TensorLayout, axis: int, counts: Mapping[str, Floats]) -> Floats:
    """What each position [size] of an axis counts that gives units."""
    found = np.ones(layout.shape[axis])
    for block in layout.blocks:
        part = block.axes[axis]
        for place, name in enumerate(part.spaces):
            if name in counts:
                found[part.positions] *= along(counts[name], place, part.positions.ndim)
    return found


def along(values: Floats, axis: int, ndim: int) -> Floats:
    """Values [n] as an array of so many dimensions, along one of them."""
    return values.reshape([-1 if each == axis else 1 for each in range(ndim)])


def _content(array: NDArray[Any], layout: TensorLayout, block: Block, spaces: Mapping[str, Space]) -> NDArray[Any]:
    """The block's content, one dimension for each slot."""
    plain = len(layout.blocks) == 1 and covers(block, layout.shape)
    content = array if plain else array[np.ix_(*(axis.positions.reshape(-1) for axis in block.axes))]
    return content.reshape(slot_sizes(block, spaces))


def _counts(layout: TensorLayout, block: Block, typing: Typing, zips: Zipped, model: int) -> dict[Slot, Floats]:
    """What the units of a model count, at each slot that gives them."""
    counts = zips.counts_of(model)
    return {
        slot: counts[_space(block, slot)]
        for slot in slots_of(block)
        if _space(block, slot) in counts and _gives(layout, block, slot, typing, zips)
    }


def _gives(layout: TensorLayout, block: Block, slot: Slot, typing: Typing, zips: Zipped) -> bool:
    name = _space(block, slot)
    return _moves(block, slot, typing.spaces, zips.models[0]) and (layout.name, slot[0], name) not in typing.consumed


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
    slots: Collection[Slot] | None = None,
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
