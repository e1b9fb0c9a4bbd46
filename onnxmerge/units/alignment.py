"""Bring activations of any size into the merged network's coordinates, axis by axis.

A layout has the sizes of the traced sample; a batch of calibration data has others along its own axes. Only axes that
carry free spaces move, and these have one size always.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import StructureError
from onnxmerge.types import Float, Floats, Positions
from onnxmerge.units.layout import AxisBlock, Block, TensorLayout, Typing
from onnxmerge.units.permutations import transport
from onnxmerge.units.resize import resized_axes, resized_layout, resized_orders
from onnxmerge.units.zips import Matchings, Zipped, position_counts


def axis_orders(
    layout: TensorLayout, typing: Typing, perms: Mapping[str, Positions], *, skipped: Collection[int] = ()
) -> dict[int, Positions] | None:
    """For each axis that moves, but those ``skipped``, which source position comes to each target position.

    None where an axis does not move by itself: its order depends on the position along another axis.
    """
    found: dict[int, Positions] = {}
    for axis, size in enumerate(layout.shape):
        parts: list[AxisBlock] = []
        for block in layout.blocks:
            if not any(_equal(block.axes[axis], part) for part in parts):
                parts.append(block.axes[axis])
        names = {name for part in parts for name in part.spaces}
        if axis in skipped or not any(name in perms and typing.spaces[name].free for name in names):
            continue
        if sum(part.positions.size for part in parts) != size:
            return None
        alone = TensorLayout(layout.name, (size,), tuple(Block((part,)) for part in parts))
        try:
            found[axis] = transport(np.arange(size), alone, typing.spaces, perms)
        except StructureError:  # an outer space stands on another axis
            return None
    return found


def zip_orders(layout: TensorLayout, typing: Typing, zips: Zipped, model: int) -> dict[int, Positions] | None:
    """For each axis that moves, which merged position each of one model's positions becomes part of; None as above."""
    labels = zips.models[model]
    resized = resized_orders(layout, typing.spaces, zips.widths, labels)
    rest = axis_orders(layout, typing, labels, skipped=resized_axes(layout, zips.widths))
    return None if resized is None or rest is None else {**rest, **resized}


def reordered(tensor: NDArray[Any], orders: Mapping[int, Positions]) -> NDArray[Any]:
    """The tensor with its axes in the order that ``axis_orders`` found."""
    for axis, positions in orders.items():
        tensor = np.take(tensor, positions, axis=axis)
    return tensor


@dataclass(frozen=True, slots=True, eq=False)
class UnitAlignment:
    """How the units of all models meet along the channels of one tensor.

    ``before[m]`` reorders the other axes of model m's tensor; ``parts[m]`` [units, channels] is what its channels count
    in the mean of each merged unit, None where every channel stays in its place. ``shares`` weigh the models.
    """

    before: tuple[Mapping[int, Positions], ...]
    parts: tuple[scipy.sparse.csr_array[Any], ...] | None
    shares: tuple[float, ...]

    def mean(self, models: Sequence[NDArray[Float]]) -> NDArray[Float]:
        """The mean [..., units] over the members of each unit, of one array [..., channels] of each model."""
        if self.parts is None:
            return np.asarray(np.average(models, axis=0, weights=self.shares), models[0].dtype)
        flat = [own.reshape(-1, own.shape[-1]) for own in models]
        total = np.sum([part @ own.T for part, own in zip(self.parts, flat, strict=True)], axis=0)
        return np.asarray(total.T, models[0].dtype).reshape(*models[0].shape[:-1], -1)

    def of(self, model: int, array: NDArray[Any]) -> NDArray[Float]:
        """One model's array [..., channels] in the merged units [..., units]: its own members' mean, nan for none."""
        if self.parts is None:
            return array
        part = self.parts[model]
        counted = part.sum(axis=1)
        flat = array.reshape(-1, array.shape[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            own = (part @ flat.T).T / np.where(counted > 0, counted, np.nan)
        return np.asarray(own, array.dtype).reshape(*array.shape[:-1], -1)


def align_units(
    layout: TensorLayout, channel: int, typing: Typing, matchings: Matchings, shares: Sequence[float]
) -> UnitAlignment | None:
    """How units meet along the axis ``channel`` of a tensor; None where they do not stand along axes by themselves.

    A zip may only merge units along the channels: on another axis it would add up positions.
    """
    zips = isinstance(matchings, Zipped)
    every: list[dict[int, Positions] | None]
    axis = channel % len(layout.shape)
    counts: list[Floats] = [np.ones(layout.shape[channel])] * len(shares)
    if isinstance(matchings, Zipped):
        models = range(len(matchings.models))
        every = [zip_orders(layout, typing, matchings, model) for model in models]
        sizes = resized_layout(layout, matchings.widths).shape
        counts = [position_counts(layout, axis, matchings.counts_of(model)) for model in models]
    else:
        every = [axis_orders(layout, typing, each) for each in ({}, *matchings)]
        sizes = layout.shape
    labels: list[Positions | None] = []
    before: list[Mapping[int, Positions]] = []
    for orders in every:
        if orders is None:
            return None
        own = orders.pop(axis, None)
        if zips and orders:
            return None
        labels.append(own if own is None or zips else np.argsort(own))
        before.append(orders)
    still = all(own is None for own in labels)
    weights = [share * own for share, own in zip(shares, counts, strict=True)]
    parts = None if still else _parts(labels, sizes[channel], weights)
    return UnitAlignment(tuple(before), parts, tuple(shares))


def _parts(
    labels: Sequence[Positions | None], units: int, weights: Sequence[Floats]
) -> tuple[scipy.sparse.csr_array[Any], ...]:
    """For each model, what its channels count in the mean of each unit [units, channels].

    ``labels[c]`` is the merged unit that channel c becomes part of (None: channel c itself), with ``weights[c]``.
    """
    every = [(np.arange(own.size) if to is None else to, own) for to, own in zip(labels, weights, strict=True)]
    members = np.sum([np.bincount(to, weights=own, minlength=units) for to, own in every], axis=0)
    return tuple(
        scipy.sparse.csr_array((own / members[to], (to, np.arange(own.size))), shape=(units, own.size))
        for to, own in every
    )


def _equal(one: AxisBlock, other: AxisBlock) -> bool:
    return one.spaces == other.spaces and np.array_equal(one.positions, other.positions)
