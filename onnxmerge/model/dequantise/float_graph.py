"""The graph of the float form while it is made: nodes and initializers take the places of others, and their names."""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.model.names import UniqueNames
from onnxmerge.types import Array


class FloatGraph:
    """Changes the graph of ``model`` in place. ``names`` are those that it has, and new ones beside them."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.names = model, UniqueNames.of(model)

    @property
    def opset(self) -> int:
        return self.model.opset_imports.get("", 0)

    def insert_before(self, node: ir.Node, new: ir.Node) -> None:
        self.model.graph.insert_before(node, new)

    def insert_after(self, node: ir.Node, new: ir.Node) -> None:
        self.model.graph.insert_after(node, new)

    def initializer(self, wanted: str, array: Array) -> ir.Value:
        """A new initializer, of a name like ``wanted``."""
        name = self.names.fresh(wanted)
        return self._registered(ir.Tensor(array, name=name), name)

    def replace_initializer(self, old: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        """Take an initializer out; another of its name, for those who read the float form."""
        name = str(old.name)
        self.model.graph.initializers.pop(name)
        return self._registered(tensor, name)

    def _registered(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def put(self, node: ir.Node, value: ir.Value) -> None:
        """Let ``value`` be read in place of a node's output; the node goes. Outputs of the graph keep their names."""
        old = node.outputs[0]
        if old.is_graph_output():
            if value.producer() is None or value.is_graph_output():
                value = self._copied(node, value)
            name, old.name = old.name, self.names.fresh(f"{old.name}/codes")
            value.name, value.shape = name, value.shape or old.shape
        elif value.name is None:
            value.name, value.shape, old.name = old.name, old.shape, self.names.fresh(f"{old.name}/codes")
        value.type = value.type or old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.model.graph.remove(node, safe=True)

    def _copied(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """The same under another name, which is not given yet."""
        copy = ir.node("Identity", [value], name=self.names.fresh(f"{node.name}/copy"))
        copy.outputs[0].type = value.type
        self.insert_after(node, copy)
        return copy.outputs[0]

    def put_product(self, node: ir.Node, left: ir.Value, right: ir.Value, bias: ir.Value | None) -> None:
        """Put a MatMul, and an Add where there is a bias, in place of a node."""
        product = ir.node("MatMul", [left, right], name=node.name)
        product.outputs[0].type = left.type
        self.insert_before(node, product)
        found = product.outputs[0]
        if bias is not None:
            found.name = self.names.fresh(f"{node.outputs[0].name}/product")
            added = ir.node("Add", [found, bias], name=self.names.fresh(f"{node.name}/bias"))
            added.outputs[0].type = left.type
            self.insert_before(node, added)
            found = added.outputs[0]
        self.put(node, found)
