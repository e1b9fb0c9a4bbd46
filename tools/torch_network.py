"""An ONNX network in PyTorch: its learned tensors are parameters, so it can be trained, and written back as ONNX.

    from torch_network import TorchNetwork
    network = TorchNetwork(onnx.load("merged.onnx"))
    network(images)                               # the first output
    onnx.save(network.onnx(), "trained.onnx")     # the same graph and names, other values

What is learned and what are running statistics is read from the metadata of a merge that was made with
`onnxmerge run --export-for-training`, or given as ``roles``. Needs torch and onnx. It knows the operators of the
networks of shared/ and of the examples, and says so where it meets another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

ROLES = "onnxmerge.training"
"""Key in the metadata of a merge made for training: JSON, see docs/training.md."""

MOMENTUM = 0.1
"""How much of a batch's statistics goes into the running ones, as in PyTorch."""

Attributes = Mapping[str, Any]


def roles_of(model: onnx.ModelProto) -> dict[str, Any]:
    """What a merge made for training says of its tensors. Raises SystemExit where it says nothing."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    if ROLES not in found:
        raise SystemExit(f"{model.graph.name}: was not merged with --export-for-training; merge it again with that")
    roles: dict[str, Any] = json.loads(found[ROLES])
    return roles


class TorchNetwork(nn.Module):
    """One input, whatever batch; ``forward`` gives the first output.

    In training mode BatchNormalization takes the batch's own statistics and moves the running ones; in evaluation mode
    the network computes what the file does.
    """

    def __init__(self, model: onnx.ModelProto, roles: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        told = roles_of(model) if roles is None else roles
        learned = set(told["learned"])
        self.model = model = _with_own(model, learned)
        self.nodes = [(node, {each.name: _attribute(each) for each in node.attribute}) for node in model.graph.node]
        unknown = sorted({node.op_type for node, _ in self.nodes} - {*OPERATORS, "BatchNormalization", "Dropout"})
        if unknown:
            raise SystemExit(f"{model.graph.name}: operators {', '.join(unknown)} are not known here")
        self.tensors: dict[str, Tensor] = {}
        for place, tensor in enumerate(model.graph.initializer):
            value = torch.tensor(numpy_helper.to_array(tensor))
            if tensor.name in learned:
                value = nn.Parameter(value)
                self.register_parameter(f"t{place}", value)
            self.tensors[tensor.name] = value
        missing = sorted(learned - {*self.tensors})
        if missing:
            raise SystemExit(f"{model.graph.name}: has no initializer {missing[0]}, which was learned")

    def forward(self, images: Tensor) -> Tensor:
        """The first output for a batch of the input."""
        found: dict[str, Tensor] = {**self.tensors, self._input: images}
        for node, attributes in self.nodes:
            given = [found[name] if name else None for name in node.input]
            if node.op_type == "BatchNormalization":
                made: Any = self._normalised(given, attributes)
            elif node.op_type == "Dropout":
                made = functional.dropout(_present(given[0]), _number(given[1:2], 0.5), self.training)
            else:
                made = OPERATORS[node.op_type](given, attributes)
            outputs = made if isinstance(made, (tuple, list)) else (made,)
            found.update(zip(node.output, outputs, strict=False))
        return found[self.model.graph.output[0].name]

    @property
    def _input(self) -> str:
        return next(value.name for value in self.model.graph.input if value.name not in self.tensors)

    def _normalised(self, given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
        x, scale, bias, mean, variance = map(_present, given)
        epsilon = attributes.get("epsilon", 1e-5)
        return functional.batch_norm(x, mean, variance, scale, bias, self.training, MOMENTUM, epsilon)

    def onnx(self) -> onnx.ModelProto:
        """The model with the values that the tensors have now."""
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        for tensor in made.graph.initializer:
            array = self.tensors[tensor.name].detach().numpy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
        return made


def _with_own(model: onnx.ModelProto, learned: set[str]) -> onnx.ModelProto:
    """A copy in which a learned tensor that is stored once for two, beside an Identity, is stored by its own name."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {tensor.name: tensor for tensor in made.graph.initializer}
    for node in [each for each in made.graph.node if each.op_type == "Identity" and each.output[0] in learned]:
        if node.input[0] in known:
            own = made.graph.initializer.add()
            own.CopyFrom(known[node.input[0]])
            own.name = node.output[0]
            made.graph.node.remove(node)
    return made


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return torch.tensor(numpy_helper.to_array(value))
    return value.decode() if isinstance(value, bytes) else value


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise SystemExit("an operand that is needed was left out")
    return value


def _number(given: Sequence[Tensor | None], usual: float) -> float:
    return usual if not given or given[0] is None else float(given[0])


def _axes(given: Sequence[Tensor | None], attributes: Attributes, place: int = 1) -> list[int]:
    """Axes as an operand or, in old opsets, as an attribute."""
    operand = given[place] if len(given) > place else None
    return [*attributes.get("axes", ())] if operand is None else [int(each) for each in operand.reshape(-1)]


def _conv(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, weight = _present(given[0]), _present(given[1])
    dims = weight.ndim - 2
    pads = [*attributes.get("pads", (0,) * (2 * dims))]
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise SystemExit("auto_pad is not known here")
    if pads[:dims] != pads[dims:]:
        sides = [side for axis in reversed(range(dims)) for side in (pads[axis], pads[axis + dims])]
        x, pads = functional.pad(x, sides), [0] * dims
    operator = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    strides, dilations = attributes.get("strides", (1,) * dims), attributes.get("dilations", (1,) * dims)
    bias = given[2] if len(given) > 2 else None
    return operator(x, weight, bias, [*strides], pads[:dims], [*dilations], attributes.get("group", 1))


def _gemm(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    a, b = _present(given[0]), _present(given[1])
    a, b = a.T if attributes.get("transA", 0) else a, b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if len(given) < 3 or given[2] is None else product + attributes.get("beta", 1.0) * given[2]


def _reshape(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, wanted = _present(given[0]), [int(each) for each in _present(given[1])]
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def _expand(given: Sequence[Tensor | None], _attributes: Attributes) -> Tensor:
    x, shape = map(_present, given)
    return x * torch.ones(shape.tolist(), dtype=x.dtype)


def _flatten(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, axis = _present(given[0]), attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _reduce_mean(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, keep = _present(given[0]), bool(attributes.get("keepdims", 1))
    return x.mean(_axes(given, attributes) or [*range(x.ndim)], keepdim=keep)


def _layer_norm(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, scale = _present(given[0]), _present(given[1])
    shape = x.shape[attributes.get("axis", -1) :]
    bias = given[2] if len(given) > 2 else None
    return functional.layer_norm(x, shape, scale, bias, attributes.get("epsilon", 1e-5))


def _instance_norm(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, scale, bias = map(_present, given)
    return functional.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _slice(given: Sequence[Tensor | None], _attributes: Attributes) -> Tensor:
    x, starts, ends = map(_present, given[:3])
    axes = [int(each) for each in given[3]] if len(given) > 3 and given[3] is not None else [*range(len(starts))]
    steps = [int(each) for each in given[4]] if len(given) > 4 and given[4] is not None else [1] * len(axes)
    chosen = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        if step < 1:
            raise SystemExit("slices that run backwards are not known here")
        chosen[axis] = slice(start, end, step)
    return x[tuple(chosen)]


def _squeeze(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x = _present(given[0])
    return x.squeeze(tuple(_axes(given, attributes)) or tuple(axis for axis, size in enumerate(x.shape) if size == 1))


def _unsqueeze(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, axes = _present(given[0]), _axes(given, attributes)
    for axis in sorted(each % (x.ndim + len(axes)) for each in axes):
        x = x.unsqueeze(axis)
    return x


def _split(given: Sequence[Tensor | None], attributes: Attributes) -> Sequence[Tensor]:
    x, axis = _present(given[0]), attributes.get("axis", 0)
    sizes = [int(each) for each in given[1]] if len(given) > 1 and given[1] is not None else attributes.get("split")
    if sizes is None:
        raise SystemExit("a Split without sizes is not known here")
    return torch.split(x, [*sizes], axis)


def _gather(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x, places = _present(given[0]), _present(given[1])
    axis = attributes.get("axis", 0) % x.ndim
    places = torch.where(places < 0, places + x.shape[axis], places)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _shape(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    whole = _present(given[0]).shape
    return torch.tensor([*whole][attributes.get("start", 0) : attributes.get("end", len(whole))])


def _cast(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    return _present(given[0]).to(torch.from_numpy(np.zeros(0, kind)).dtype)


def _div(given: Sequence[Tensor | None], _attributes: Attributes) -> Tensor:
    a, b = map(_present, given)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _gelu(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    return functional.gelu(_present(given[0]), approximate=attributes.get("approximate", "none"))


def _transpose(given: Sequence[Tensor | None], attributes: Attributes) -> Tensor:
    x = _present(given[0])
    return x.permute(attributes.get("perm", [*range(x.ndim)][::-1]))


OPERATORS: dict[str, Callable[[Sequence[Tensor | None], Attributes], Tensor | Sequence[Tensor]]] = {
    "Add": lambda given, _: _present(given[0]) + _present(given[1]),
    "Cast": _cast,
    "Concat": lambda given, own: torch.cat([*map(_present, given)], own["axis"]),
    "Constant": lambda _, own: torch.as_tensor(next(iter(own.values()))),
    "ConstantOfShape": lambda given, own: own.get("value", torch.zeros(1)).expand(*_present(given[0]).tolist()),
    "Conv": _conv,
    "Div": _div,
    "Equal": lambda given, _: _present(given[0]) == _present(given[1]),
    "Erf": lambda given, _: torch.erf(_present(given[0])),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda given, _: _present(given[0]).flatten(2).mean(2)[..., None, None],
    "Identity": lambda given, _: _present(given[0]),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda given, _: _present(given[0]) @ _present(given[1]),
    "Mul": lambda given, _: _present(given[0]) * _present(given[1]),
    "Pow": lambda given, _: _present(given[0]) ** _present(given[1]),
    "ReduceMean": _reduce_mean,
    "Relu": lambda given, _: functional.relu(_present(given[0])),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda given, own: _present(given[0]).softmax(own.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda given, _: _present(given[0]).sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda given, _: _present(given[0]) - _present(given[1]),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda given, _: torch.where(*map(_present, given)),
}
