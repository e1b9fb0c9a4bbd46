"""What running a network takes at the least, told by shape inference before anything runs.

A few bytes of Tile, Expand or Concat ask for any amount of memory, and a Loop for any amount of time. What follows from
shapes and constants is refused here, at once and by name; what depends on data is stopped while it runs (by
``memory_limit``, and by ``session.run`` where loops do not end).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxmerge.errors import ResourceError
from onnxmerge.memory import require_room
from onnxmerge.model.inference import graphs, infer, without_weights
from onnxmerge.model.network import Network
from onnxmerge.model.structure import trips
from onnxmerge.model.traits import has
from onnxmerge.types import Array

MOST_TRIPS = 10**6
"""A Loop of more trips takes from seconds on, and is run many times."""
FEW, MANY = 16, 4096
"""Initializers of at most ``FEW`` elements, integers of ``MANY``, may be shapes or scales: inference reads them."""
MOST_PROPAGATED = 10**5
"""onnx propagates the elements of small integer tensors, and would also do so where each is twice the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """A network's graph without its weights. ``propagates`` says whether values of shapes may be followed in it."""

    label: str
    proto: onnx.ModelProto
    propagates: bool

    def require_room(self, feeds: Mapping[str, Array], *, all_kept: bool = False) -> None:
        """Raise ResourceError if the tensors that these inputs lead to take more memory than may be taken.

        Of all tensors the largest counts; with ``all_kept`` all together, as every one is an output.
        """
        found = dict(self._tensors({name: array.shape for name, array in feeds.items()}))
        if not found:
            return
        name, largest = max(found.items(), key=lambda item: item[1])
        require_room(largest, f"{self.label}: tensor {name[:100]!r}")
        if all_kept:
            given = ", ".join(f"{name[:40]}:{list(array.shape)}" for name, array in list(feeds.items())[:3])
            require_room(sum(found.values()), f"{self.label}: what is computed for {given or 'no inputs'}")

    def _tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int]]:
        """Tensors that nodes of the main graph give, with their bytes, where these are known."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for value in proto.graph.input:
            if value.name in shapes and value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
                dims = value.type.tensor_type.shape
                for size in shapes[value.name]:
                    dims.dim.add().dim_value = size
        try:
            inferred = infer(proto, data_prop=self.propagates)
        except Exception:  # noqa: BLE001 - what cannot be inferred is for ONNX Runtime to refuse, in its own words
            return
        computed = {name for node in inferred.graph.node for name in node.output}
        for value in (*inferred.graph.value_info, *inferred.graph.output):
            needed = _bytes(value.type)
            if needed is not None and value.name in computed:
                yield value.name, needed


def demand(network: Network) -> Demand:
    """What a network demands. Raises ResourceError for a Loop that takes a constant, enormous number of trips."""
    for node in network.graph.all_nodes():
        if (count := trips(node) or 0) > MOST_TRIPS:
            raise ResourceError(
                f"{network.label}: node {str(node.name)[:100]!r} (Loop) takes {count} trips, of which at most "
                f"{MOST_TRIPS} can be run; export with fewer, or with a condition that ends it"
            )
    proto = without_weights(network.model, _may_be_shape)
    for graph in graphs(proto.graph):
        computed = {name for node in graph.node for name in node.output}
        for value in (*graph.value_info, *graph.output):
            if value.name in computed:
                _forget_shape(value.type)  # declared shapes may be wrong, or of other inputs
    return Demand(network.label, proto, _longest(network.graph) <= MOST_PROPAGATED)


def _may_be_shape(tensor: ir.TensorProtocol) -> bool:
    return tensor.size <= (MANY if tensor.dtype.is_integer() else FEW)


def _forget_shape(declared: onnx.TypeProto) -> None:
    kind = declared.WhichOneof("value")
    if kind in {"tensor_type", "sparse_tensor_type"}:
        getattr(declared, kind).ClearField("shape")
    elif kind in {"sequence_type", "optional_type"}:
        _forget_shape(getattr(declared, kind).elem_type)


def _longest(graph: ir.Graph) -> int:
    """An upper bound of how many elements any shape can have that is put together in the main graph."""
    tensors = {value: value.const_value for value in graph.initializers.values() if value.const_value is not None}
    lengths = {value: tensor.size for value, tensor in tensors.items() if _may_be_shape(tensor)}
    for node in graph:
        if has(node, "gives_sizes"):
            lengths.update(dict.fromkeys(node.outputs, _RANK))
        operands = [value for value in node.inputs if value is not None]
        own = [lengths[value] for value in operands if value in lengths]
        if node.op_type == "Concat" and own:
            lengths.update(dict.fromkeys(node.outputs, sum(own)))
        elif own and operands[0] in lengths:
            lengths.update(dict.fromkeys(node.outputs, max(own)))
    return max(lengths.values(), default=0)


_RANK = 16
"""Elements of the result of a Shape, about."""


def _bytes(found: onnx.TypeProto) -> int | None:
    """The size of a tensor of known type and shape."""
    tensor = found.tensor_type
    if not found.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in tensor.shape.dim):
        return None
    if tensor.elem_type in {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}:
        return None
    bits: int = ir.DataType(tensor.elem_type).bitwidth
    elements: int = math.prod(dim.dim_value for dim in tensor.shape.dim)
    return elements * bits // 8
