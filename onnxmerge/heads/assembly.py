"""Put the merged file together: one trunk, and behind it each parent's tail with its own weights, bit by bit.

A tail reads the border in its parent's own order of units. Merged units stand in the first model's order, or in that
of a zip; a Gather with constant positions gives each parent's order back, exactly, where it differs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.errors import StructureError
from onnxmerge.heads.cutting import Separation
from onnxmerge.heads.splicing import Reading, splice
from onnxmerge.model.names import UniqueNames
from onnxmerge.model.network import Network
from onnxmerge.types import Positions
from onnxmerge.units.alignment import axis_orders, zip_orders
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import identity, invert
from onnxmerge.units.resize import resized_layout
from onnxmerge.units.zips import Matchings, Zipped


def inseparable(typing: Typing, border: Collection[str]) -> frozenset[str]:
    """The border tensors whose order along one axis depends on the place along another, or is not known at all."""
    unmoved = identity(typing.spaces)
    return frozenset(
        name
        for name in border
        if (layout := typing.activations.get(name)) is None or axis_orders(layout, typing, unmoved) is None
    )


def readings(typing: Typing, border: Sequence[str], matchings: Matchings) -> tuple[Reading, ...]:
    """How each parent's tail reads the border; axes that stay in order are left out.

    A matching says which unit of the parent comes to each merged unit, so its inverse is what the tail needs; the
    labels of a zip say it directly (unmerging copies a merged unit to each of its members).
    """
    if not isinstance(matchings, Zipped):
        moves = [{}, *(invert(each, typing.spaces) for each in matchings)]
        matchings = Zipped(tuple(moves))
    zips, parents = matchings, range(len(matchings.models))
    return tuple({name: _orders(typing, name, zips, parent) for name in border} for parent in parents)


def _orders(typing: Typing, name: str, zips: Zipped, parent: int) -> dict[int, Positions]:
    layout = typing.activations[name]
    orders = zip_orders(layout, typing, zips, parent)
    if orders is None:
        raise StructureError(f"border tensor {name}: its units cannot be put in order axis by axis; report the model")
    sizes = resized_layout(layout, zips.widths).shape
    return {axis: order for axis, order in orders.items() if not np.array_equal(order, np.arange(sizes[axis]))}


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """The merged network, and for each parent the names of its outputs there, joint ones included."""

    network: Network
    outputs: tuple[tuple[str, ...], ...]


def assemble(separation: Separation, trunk: Network, readings: Sequence[Reading]) -> Assembled:
    """The merged network: ``trunk``, and behind it each head with its own of ``readings``.

    The trunk keeps its names; each head's names end in the head's tag.

    Trunk weights are the template's: others take their place when the model is written.

    Raises StructureError where a tail cannot stand in a model of the first one's opsets.
    """
    model = trunk.model.clone()
    border = {str(value.name): value for value in model.graph.outputs}
    model.graph.outputs[:] = [border[name] for name in separation.joint]
    names = UniqueNames.of(model)
    outputs = tuple(
        splice(model, names, head, border, reading) for head, reading in zip(separation.heads, readings, strict=True)
    )
    model.ir_version = max(head.network.model.ir_version for head in separation.heads)
    return Assembled(Network(trunk.path, model, trunk.sha256), outputs)
