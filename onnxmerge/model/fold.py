"""Low-rank branches folded into the layers that they stand beside: y = x W + s x A B becomes y = x (W + s A B).

This is what LoRA (Hu et al., arXiv 2106.09685, section 4.1) calls merging before deployment. A branch is found in the
graph as it is: two linear layers without bias, numbers that they are multiplied by, casts between types of floats, and
a sum with what a layer of the same sizes makes of the same input. A branch of which another node reads something before
the sum is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.linear_layers import integer, readers
from onnxmerge.model.network import Network
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.structure import passes_on
from onnxmerge.types import Array, Floats

_WINDOWS = ("strides", "pads", "dilations")
"""What a convolution's first factor must have in common with the layer that it is folded into, beside its kernel."""


_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Types that a layer is computed in; what is cast to fewer bits is meant to lose something."""

_AT_ONCE = 1 << 22
"""Numbers of a weight that are computed at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A linear layer: its node, its weight, whether that is stored [out, in], and what the product is multiplied by."""

    node: ir.Node
    weight: ir.Value
    transposed: bool
    scale: float
    biased: bool

    @property
    def convolves(self) -> bool:
        return self.node.op_type == "Conv"

    @property
    def stored(self) -> Array:
        """The weight as it stands in the file."""
        tensor = self.weight.const_value
        found: Array = tensor.numpy() if tensor is not None else np.zeros(())
        return found

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs and outputs."""
        shape = _shape(self.weight)
        return (shape[1], shape[0]) if self.transposed or self.convolves else (shape[0], shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A low-rank branch: what it is folded into, its factors, and the number that their product is multiplied by.

    ``total`` adds it to ``kept``, which stays; ``added`` and ``summed`` are the names of what is added and of the sum.
    """

    base: _Linear
    down: _Linear
    up: _Linear
    scale: float
    total: ir.Node
    kept: ir.Value
    added: str
    summed: str

    @property
    def rank(self) -> int:
        return self.down.sizes[1]

    @property
    def does_something(self) -> bool:
        """Whether it is more than zeros, as branches are before training."""
        return bool(self.scale and self.down.stored.any() and self.up.stored.any())

    def factors(self, down: Array, up: Array) -> tuple[Floats, Floats]:
        """What the base's weight changes by is their product [rows, columns], as that is stored, its rows flattened.

        ``down`` and ``up`` are the factors' weights as they are now.
        """
        first, second = (
            (np.asarray(weight, np.float64).T if layer.transposed else np.asarray(weight, np.float64))
            for layer, weight in ((self.down, down), (self.up, up))
        )
        if self.base.convolves:  # stored [outputs, inputs, *kernel], and the factors likewise
            left, right = second.reshape(second.shape[:2]), first.reshape(len(first), -1)
        else:
            left, right = (second.T, first.T) if self.base.transposed else (first, second)
        return left * (self.scale * self.down.scale * self.up.scale / self.base.scale), right


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A network without branches: the weights that changed are computed when they are read."""

    network: Network
    weights: Mapping[str, Array]
    branches: tuple[Branch, ...]


@dataclass(slots=True)
class _Changes:
    """The branches by the weight that they go into."""

    by_weight: dict[str, list[Branch]] = field(default_factory=dict)

    def add(self, branch: Branch) -> None:
        self.by_weight.setdefault(str(branch.base.weight.name), []).append(branch)

    def weight(self, layer: _Linear) -> Array:
        """A layer's weight with all branches that were folded into it, in its own type; some rows at a time."""
        old, name = layer.stored, str(layer.weight.name)
        if name not in self.by_weight:
            return old
        pairs = [each.factors(self.weight(each.down), self.weight(each.up)) for each in self.by_weight[name]]
        found, rows = np.empty_like(old), max(1, _AT_ONCE * len(old) // old.size)
        for start in range(0, len(old), rows):
            part = slice(start, start + rows)
            total = old[part].reshape(len(old[part]), -1).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):  # said below
                for left, right in pairs:
                    total += left[part] @ right
                found[part] = total.reshape(old[part].shape).astype(old.dtype)
            if np.isfinite(old[part]).all() and not np.isfinite(found[part]).all():
                raise InputError(
                    f"initializer {name!r}: with its branch it leaves the range of {old.dtype}; look at the branch's "
                    "factors, or convert the model to a wider type first"
                )
        return found


def fold_branches(network: Network) -> Folded:
    """Take all low-rank branches out of a network's graph, which is changed, and fold them into its weights."""
    graph, changes, found = network.graph, _Changes(), list[Branch]()
    alone = {name for name, count in readers(graph).items() if count == 1}
    before = -1
    while len(found) > before:  # a branch may stand beside a factor of another
        before = len(found)
        for node in tuple(graph):
            down = _linear(node) if node.graph is graph else None
            branch = None if down is None or down.biased else _branch(down, alone)
            if branch is not None:
                found.append(branch)
                changes.add(branch)
                _take_out(graph, branch)
    passes.RemoveUnusedNodesPass()(network.model)
    bases = {str(each.base.weight.name): each.base for each in found}
    kept = [name for name in bases if name in graph.initializers]
    return Folded(network, LazyWeights(kept, lambda name: changes.weight(bases[name])), tuple(found))


def _branch(down: _Linear, alone: Collection[str]) -> Branch | None:
    """The branch whose first factor is this layer; None where it is none, or cannot be folded.

    ``alone`` are the weights that one node read before anything was folded.
    """
    origin, before = _root(down.node.inputs[0])
    inner, first = _onward(down.node.outputs[0])
    up = None if inner is None else _linear(inner)
    if up is None or up.biased or up.convolves != down.convolves or up.sizes[0] != down.sizes[1]:
        return None
    if up.convolves and not _pointwise(up.node):
        return None
    total, second = _onward(up.node.outputs[0])
    if total is None or total.op_type not in ("Add", "Sum") or total.domain not in STANDARD or len(total.inputs) != 2:
        return None
    for kept, added in (total.inputs, total.inputs[::-1]):
        found = None if kept is None or added is None else _base(kept, origin, down, up)
        if kept is None or added is None or found is None or str(found[0].weight.name) not in alone:
            continue
        base, factor = found
        scale, summed = before * first * second / factor, total.outputs[0]
        return Branch(base, down, up, scale, total, kept, str(added.name), str(summed.name))
    return None


def _base(kept: ir.Value, origin: ir.Value | None, down: _Linear, up: _Linear) -> tuple[_Linear, float] | None:
    """The layer that a branch is folded into, and how many times ``origin`` it reads.

    What is added to its product is a bias at most.
    """
    value = kept
    while True:
        node = value.producer()
        if node is None or len(value.uses()) != 1 or value.is_graph_output():
            return None
        if node.op_type == "Add" and node.domain in STANDARD:
            bias = next((each for each in node.inputs if each is not None and each.const_value is not None), None)
            others = [each for each in node.inputs if each is not bias]
            if bias is None or len(others) != 1 or others[0] is None:
                return None
            value = others[0]
            continue
        if (passes_on(node) or _casts(node)) and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        break
    base = _linear(node)
    if base is None or base.node is up.node or base.convolves != down.convolves:
        return None
    read, factor = _root(base.node.inputs[0])
    sizes = down.sizes[0], up.sizes[1]
    alike = not base.convolves or _same_windows(base.node, down.node)
    narrower = down.sizes[1] < min(sizes)
    if read is not origin or not factor or base.sizes != sizes or not (alike and narrower):
        return None
    return base, factor


def _take_out(graph: ir.Graph, branch: Branch) -> None:
    """Let what reads the sum read what is kept of it."""
    total, kept = branch.total.outputs[0], branch.kept
    ir.convenience.replace_all_uses_with(total, kept, replace_graph_outputs=True)
    if kept.is_graph_output():
        total.name, kept.name = f"{total.name}_with_branch", total.name
        kept.shape, kept.type = total.shape, total.type
    waiting = [branch.total]
    while waiting:  # the sum, and of the branch what nothing else reads
        node = waiting.pop()
        if node.graph is graph and not any(value.uses() or value.is_graph_output() for value in node.outputs):
            above = {
                each: None for value in node.inputs if value is not None and (each := value.producer()) is not None
            }
            graph.remove(node, safe=True)
            waiting.extend(above)


def _linear(node: ir.Node) -> _Linear | None:
    """A node as a linear layer with its weight in an initializer of floats; None for others."""
    weight = node.inputs[1] if node.domain in STANDARD and len(node.inputs) > 1 else None
    tensor = None if weight is None else weight.const_value
    if weight is None or tensor is None or not tensor.dtype.is_floating_point() or not weight.is_initializer():
        return None
    if node.op_type == "MatMul" and len(_shape(weight)) == 2:
        return _Linear(node, weight, transposed=False, scale=1.0, biased=False)
    biased = _biased(node)
    if node.op_type == "Gemm" and not integer(node, "transA", 0):
        alpha = node.attributes.get("alpha")
        scale = 1.0 if alpha is None else alpha.as_float()
        return _Linear(node, weight, bool(integer(node, "transB", 0)), scale, biased) if scale else None
    if node.op_type == "Conv" and integer(node, "group", 1) == 1 and len(_shape(weight)) > 2:
        return _Linear(node, weight, transposed=False, scale=1.0, biased=biased)
    return None


def _biased(node: ir.Node) -> bool:
    """Whether a layer adds something: old opsets cannot leave out what is added, so it may be zeros."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    beta = node.attributes.get("beta")
    if bias is None or (beta is not None and not beta.as_float()):
        return False
    return bias.const_value is None or bool(bias.const_value.numpy().any())


def _root(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """What a value is a multiple of, by how much: products with single numbers and copies are looked through."""
    factor = 1.0
    while value is not None:
        node = value.producer()
        step = None if node is None else _multiple(node)
        if step is None:
            break
        value, factor = step[0], factor * step[1]
    return value, factor


def _onward(value: ir.Value) -> tuple[ir.Node | None, float]:
    """The one node that reads a value, through products with single numbers and copies, and their product."""
    factor, producer = 1.0, value.producer()
    owner = None if producer is None else producer.graph
    while True:
        uses = tuple(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return None, factor
        node = uses[0].node
        if node.graph is not owner:  # in the body of a loop or a condition
            return None, factor
        step = _multiple(node)
        if step is None or step[0] is not value:
            return node, factor
        value, factor = node.outputs[0], factor * step[1]


def _multiple(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(value, number) where a node gives so many times that value."""
    if node.domain not in STANDARD or not node.inputs or node.inputs[0] is None:
        return None
    if passes_on(node) or _casts(node):
        return node.inputs[0], 1.0
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for slot, value in enumerate(node.inputs):
        other = node.inputs[1 - slot]
        number = None if other is None else _number(other)
        if value is not None and value.const_value is None and number is not None:
            if node.op_type == "Mul":
                return value, number
            return (value, 1.0 / number) if slot == 0 and number else None
    return None


def _casts(node: ir.Node) -> bool:
    """Whether a node turns floats into floats of another type that layers are computed in."""
    if node.op_type != "Cast" or node.domain not in STANDARD:
        return False
    given = None if node.inputs[0] is None else node.inputs[0].dtype
    return ir.DataType(integer(node, "to", 0)) in _FLOATS and (given is None or given in _FLOATS)


def _number(value: ir.Value) -> float | None:
    """The one number of a constant that changes no shape."""
    tensor = value.const_value
    if tensor is None or tensor.size != 1 or len(tensor.shape) > 1:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _pointwise(node: ir.Node) -> bool:
    """Whether a convolution looks at one place at a time and leaves none out."""
    ones = all(size == 1 for size in _shape(node.inputs[1])[2:])
    strides, pads = _ints(node, "strides"), _ints(node, "pads")
    return ones and not any(pads) and all(stride == 1 for stride in strides)


def _same_windows(one: ir.Node, other: ir.Node) -> bool:
    """Whether two convolutions look at the same places."""
    kernel = _shape(one.inputs[1])[2:]
    plain = {"strides": (1,), "pads": (0, 0), "dilations": (1,)}  # what is left out, for each axis of the kernel

    def windows(node: ir.Node) -> list[tuple[int, ...]]:
        return [_ints(node, name) or plain[name] * len(kernel) for name in _WINDOWS]

    padded = [node.attributes.get("auto_pad") for node in (one, other)]
    alike = len({"NOTSET" if each is None else each.as_string() for each in padded}) == 1
    return kernel == _shape(other.inputs[1])[2:] and alike and windows(one) == windows(other)


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    tensor = None if value is None else value.const_value
    return () if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    found = node.attributes.get(name)
    return () if found is None else tuple(found.as_ints())
