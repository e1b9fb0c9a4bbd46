"""Transposes of initializers, which one exporter writes as nodes and another folds into the tensor that it stores.

So a table that an output layer reads too, transposed, may be one tensor in one network and two in another. To pair such
networks up the transposes are folded in all of them; afterwards the template gets its own back wherever all networks
hold what they say: a tensor and its transpose stay one where they are equal in every network, and become two where they
differ in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from onnxmerge.model.network import ModelSet, Network, Weights
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.structure import source


@dataclass(frozen=True, slots=True)
class Fold:
    """A Transpose that was folded: ``output`` is the initializer ``origin`` with its axes in the order ``perm``."""

    node: str
    origin: str
    output: str
    perm: tuple[int, ...]


def folded(network: Network) -> tuple[Network, tuple[Fold, ...]]:
    """The network with its Transposes of initializers folded, in topological order; itself where there are none."""
    model = network.model.clone()
    folds: list[Fold] = []
    for node in list(model.graph):
        output = node.outputs[0]
        origin = source(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        tensor = origin.const_value if origin is not None and origin.is_initializer() else None
        if node.op_type != "Transpose" or node.domain not in STANDARD or tensor is None or output.is_graph_output():
            continue
        rank = len(tensor.shape)
        given = node.attributes.get("perm")
        perm = tuple(given.as_ints()) if given is not None else tuple(reversed(range(rank)))
        stored = _transposed(tensor, perm, str(output.name))
        copy = ir.Value(name=output.name, const_value=stored)
        copy.type, copy.shape = ir.TensorType(tensor.dtype), ir.Shape(stored.shape.numpy())
        for user, slot in list(output.uses()):
            user.replace_input_with(slot, copy)
        model.graph.remove(node)
        output.name = None
        model.graph.register_initializer(copy)
        folds.append(Fold(str(node.name), str(origin.name if origin is not None else ""), str(copy.name), perm))
    passes.RemoveUnusedNodesPass()(model)
    return (Network(network.path, model, network.sha256), tuple(folds)) if folds else (network, ())


def unfolded(models: ModelSet, first: Network, folds: Sequence[Fold]) -> ModelSet:
    """The set with the template's Transposes, as ``first`` has them, where all networks agree with them."""
    graph = models.template.graph
    weights = [{name: own.tensor(name) for name in own} for own in models.weights if isinstance(own, Weights)]
    for fold in reversed(folds):
        kept = graph.initializers.get(fold.output)
        if kept is None:
            continue
        if fold.origin not in graph.initializers:  # nothing else reads it: it is what its transpose says
            back = tuple(int(axis) for axis in np.argsort(fold.perm))
            for own in weights:
                own[fold.origin] = _transposed(own[fold.output], back, fold.origin)
            known = first.graph.initializers.get(fold.origin)
            tensor = weights[0][fold.origin] if known is None or known.const_value is None else known.const_value
            origin = ir.Value(
                name=fold.origin, type=kept.type, shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
            )
            graph.register_initializer(origin)
        elif not all(_agree(own, fold) for own in weights):
            continue
        _write(graph, graph.initializers[fold.origin], kept, fold)
        for own in weights:
            del own[fold.output]
    return replace(models, weights=tuple(map(Weights, weights)))


def _write(graph: ir.Graph, origin: ir.Value, kept: ir.Value, fold: Fold) -> None:
    """Compute ``kept`` from ``origin`` by a Transpose in front of all nodes."""
    graph.initializers.pop(fold.output)
    node = ir.node("Transpose", [origin], {"perm": list(fold.perm)}, name=fold.node)
    node.outputs[0].type, node.outputs[0].shape = kept.type, kept.shape
    for user, slot in list(kept.uses()):
        user.replace_input_with(slot, node.outputs[0])
    kept.name, node.outputs[0].name = None, fold.output
    graph.insert_before(graph[0], node)


def _agree(weights: Mapping[str, ir.TensorProtocol], fold: Fold) -> bool:
    read = Weights({"origin": weights[fold.origin], "output": weights[fold.output]})
    return bool(np.array_equal(read["origin"].transpose(fold.perm), read["output"]))


def _transposed(tensor: ir.TensorProtocol, perm: Sequence[int], name: str) -> ir.TensorProtocol:
    """A tensor with its axes in another order, read when it is asked for."""
    shape = [int(tensor.shape.numpy()[axis]) for axis in perm]

    def read() -> ir.TensorProtocol:
        array: NDArray[Any] = Weights({name: tensor})[name].transpose(perm)
        return ir.Tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=name)

    return ir.LazyTensor(read, tensor.dtype, ir.Shape(shape), name=name)
