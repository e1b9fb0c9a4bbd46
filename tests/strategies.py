"""Random networks for hypothesis: a chain of drawn operators over a growing pool of tensors.

Every choice is one drawn integer, so that a failing network shrinks to a short one. Weights are drawn by seed and
scaled so that signals neither die nor explode. Some weights are used twice, and some tensors meet themselves
transposed: what a calculus of axes may get wrong is one space in two places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[int], int]
"""An integer from 0 to the argument, exclusive."""

Shape = tuple[int, ...]
SIZES = (2, 3, 4, 6, 8)


@dataclass
class NetworkBuilder:
    """Grows a network; ``pool`` are the tensors that may be read next, by name."""

    draw: Draw
    pool: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    weights: dict[str, Shape] = field(default_factory=dict)

    def choose(self, options: Sequence[str]) -> str:
        return options[self.draw(len(options))]

    def tensor(self, ranks: Sequence[int] = (2, 3, 4, 5)) -> tuple[str, Shape] | None:
        """One of the tensors of these ranks, rather a late one."""
        fitting = [name for name, shape in self.pool.items() if len(shape) in ranks]
        if not fitting:
            return None
        name = fitting[-1 - self.draw(min(len(fitting), 4))]
        return name, self.pool[name]

    def weight(self, *shape: int, fan: int = 1) -> str:
        """A new weight, or one of this shape that is there already."""
        same = [name for name, other in self.weights.items() if other == shape]
        if same and self.draw(4) == 0:
            return self.choose(same)
        name = f"w{len(self.weights)}"
        self.weights[name] = shape
        values = np.random.default_rng(len(self.weights)).standard_normal(shape) / math.sqrt(fan)
        self.constants[name] = values.astype(np.float32)
        return name

    def integers(self, values: Sequence[int]) -> str:
        name = f"i{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(self, operator: str, inputs: Sequence[str], *shapes: Shape, **attributes: Any) -> tuple[str, ...]:
        """Append a node with outputs of the given shapes."""
        outputs = tuple(f"t{len(self.nodes)}_{index}" for index in range(len(shapes)))
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), **attributes))
        self.pool.update(zip(outputs, shapes, strict=True))
        return outputs


def convolve(net: NetworkBuilder) -> None:
    found = net.tensor([4])
    if found is None:
        return
    name, (n, c, h, w) = found
    groups = [g for g in range(1, c + 1) if c % g == 0]
    g = groups[net.draw(len(groups))]
    out = g * (1 + net.draw(3))
    k = 1 if min(h, w) < 3 else 1 + 2 * net.draw(2)
    weight = net.weight(out, c // g, k, k, fan=c // g * k * k)
    net.add("Conv", [name, weight], (n, out, h, w), group=g, pads=[k // 2] * 4)


def multiply(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    size = SIZES[net.draw(len(SIZES))]
    if net.draw(3):
        net.add("MatMul", [name, net.weight(shape[-1], size, fan=shape[-1])], (*shape[:-1], size))
    else:
        net.add("MatMul", [net.weight(size, shape[-2], fan=shape[-2]), name], (*shape[:-2], size, shape[-1]))


def attend(net: NetworkBuilder) -> None:
    """The product of two tensors, or of one with itself transposed."""
    found = net.tensor([3, 4])
    if found is None:
        return
    name, shape = found
    swap = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    partners = [
        other for other, s in net.pool.items() if len(s) == len(shape) and s[:-2] == shape[:-2] and s[-1] == shape[-1]
    ]
    partner = net.choose(partners)
    other = net.pool[partner]
    (turned,) = net.add("Transpose", [partner], (*other[:-2], other[-1], other[-2]), perm=swap)
    (scores,) = net.add("MatMul", [name, turned], (*shape[:-1], other[-2]))
    (softened,) = net.add("Softmax", [scores], (*shape[:-1], other[-2]), axis=-1 - net.draw(2))
    net.add("MatMul", [softened, partner], (*shape[:-1], other[-1]))


def combine(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    partners = [other for other, s in net.pool.items() if s == shape]
    net.add(net.choose(["Add", "Mul", "Sub", "Max"]), [name, net.choose(partners)], shape)


def scale(net: NetworkBuilder) -> None:
    """A learned vector, or a whole learned table, added or multiplied."""
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    kept = [size if net.draw(2) else 1 for size in shape]
    net.add(net.choose(["Add", "Mul"]), [name, net.weight(*kept)], shape)


def concatenate(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    rest = (*shape[:axis], *shape[axis + 1 :])
    partners = [other for other, s in net.pool.items() if len(s) == len(shape) and (*s[:axis], *s[axis + 1 :]) == rest]
    partner = net.choose(partners)
    size = shape[axis] + net.pool[partner][axis]
    net.add("Concat", [name, partner], (*shape[:axis], size, *shape[axis + 1 :]), axis=axis)


def split(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    if shape[axis] < 2:
        return
    first = 1 + net.draw(shape[axis] - 1)
    shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in (first, shape[axis] - first)]
    net.add("Split", [name, net.integers([first, shape[axis] - first])], *shapes, axis=axis)


def take(net: NetworkBuilder) -> None:
    """One index, a few, or every second position of an axis."""
    found = net.tensor([3, 4, 5])
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    kind = net.draw(3)
    if kind == 0:
        index = f"i{len(net.constants)}"
        net.constants[index] = np.array(net.draw(shape[axis]), np.int64)
        net.add("Gather", [name, index], (*shape[:axis], *shape[axis + 1 :]), axis=axis)
    elif kind == 1:
        indices = [net.draw(shape[axis]) for _ in range(1 + net.draw(3))]
        after = (*shape[:axis], len(indices), *shape[axis + 1 :])
        net.add("Gather", [name, net.integers(indices)], after, axis=axis)
    elif shape[axis] >= 2:
        start = net.draw(2)
        bounds = [net.integers([value]) for value in (start, shape[axis], axis, 2)]
        after = (*shape[:axis], len(range(start, shape[axis], 2)), *shape[axis + 1 :])
        net.add("Slice", [name, *bounds], after)


def reshape(net: NetworkBuilder) -> None:
    """Split an axis in two or join two neighbours."""
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    divisors = [d for d in range(2, shape[axis]) if shape[axis] % d == 0]
    if divisors and len(shape) < 5 and net.draw(2):
        outer = divisors[net.draw(len(divisors))]
        after = (*shape[:axis], outer, shape[axis] // outer, *shape[axis + 1 :])
    elif axis + 1 < len(shape) > 2:
        after = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    else:
        return
    net.add("Reshape", [name, net.integers(after)], after)


def transpose(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    left = list(range(len(shape)))
    order = [left.pop(net.draw(len(left))) for _ in shape]
    net.add("Transpose", [name], tuple(shape[axis] for axis in order), perm=order)


def normalise(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    kind = net.draw(4)
    if kind == 0 and shape[-1] > 1:
        net.add("LayerNormalization", [name, net.weight(shape[-1]), net.weight(shape[-1])], shape, axis=-1, epsilon=0.1)
    elif kind == 1:
        groups = [g for g in range(1, shape[1] + 1) if shape[1] % g == 0]
        g = groups[net.draw(len(groups))]
        operands = [name, net.weight(shape[1]), net.weight(shape[1])]
        if len(shape) > 2:
            net.add("GroupNormalization", operands, shape, num_groups=g, epsilon=0.1)
    elif kind == 2:
        net.add("Softmax", [name], shape, axis=net.draw(len(shape)))
    elif len(shape) > 2:
        statistics = [net.weight(shape[1]), net.weight(shape[1]), net.weight(shape[1]), f"v{len(net.constants)}"]
        net.constants[statistics[3]] = np.linspace(0.5, 2, shape[1], dtype=np.float32)
        net.add("BatchNormalization", [name, *statistics], shape)


def reduce(net: NetworkBuilder) -> None:
    found = net.tensor([3, 4, 5])
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    keep = net.draw(2)
    after = (*shape[:axis], *([1] if keep else []), *shape[axis + 1 :])
    net.add(net.choose(["ReduceMean", "ReduceMax"]), [name, net.integers([axis])], after, keepdims=keep)


def activate(net: NetworkBuilder) -> None:
    found = net.tensor()
    if found is not None:
        net.add(net.choose(["Relu", "Tanh", "Sigmoid"]), [found[0]], found[1])


def widen(net: NetworkBuilder) -> None:
    """Tile an axis, or pad it with zeros."""
    found = net.tensor()
    if found is None:
        return
    name, shape = found
    axis = net.draw(len(shape))
    if net.draw(2):
        times = [2 if index == axis else 1 for index in range(len(shape))]
        after = tuple(size * count for size, count in zip(shape, times, strict=True))
        net.add("Tile", [name, net.integers(times)], after)
    else:
        pads = [net.draw(2) if index == axis else 0 for index in range(len(shape))] * 2
        after = tuple(size + 2 * pad for size, pad in zip(shape, pads, strict=False))
        net.add("Pad", [name, net.integers(pads)], after)


STEPS: tuple[Callable[[NetworkBuilder], None], ...] = (
    multiply,
    convolve,
    activate,
    combine,
    scale,
    reshape,
    transpose,
    concatenate,
    split,
    normalise,
    take,
    reduce,
    attend,
    widen,
)
LARGEST = 2000


def grow(draw: Draw, steps: int) -> onnx.ModelProto:
    """A network of about ``steps`` drawn operators behind an embedding, with a learned head after its last tensors."""
    net = NetworkBuilder(draw)
    if draw(2):
        shape: Shape = (2, 3, 4)
        net.pool["x"] = shape
        net.add("MatMul", ["x", net.weight(4, 6, fan=4)], (2, 3, 6))
    else:
        shape = (2, 3, 4, 4)
        net.pool["x"] = shape
        net.add("Conv", ["x", net.weight(6, 3, 1, 1, fan=3)], (2, 6, 4, 4))
    for _ in range(steps):
        STEPS[draw(len(STEPS))](net)
        net.pool = {name: s for name, s in net.pool.items() if math.prod(s) <= LARGEST}
    outputs = []
    for name in [name for name in net.pool if name != "x"][-2:]:
        last = net.pool[name]
        (out,) = net.add("MatMul", [name, net.weight(last[-1], 2, fan=last[-1])], (*last[:-1], 2))
        if len(last) > 2:
            every = net.integers(range(1, len(last) - 1))
            (out,) = net.add("ReduceMean", [out, every], (last[0], 2), keepdims=0)
        outputs.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, None))
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in net.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@st.composite
def networks(draw: st.DrawFn, max_steps: int = 12) -> onnx.ModelProto:
    """Random networks; see ``grow``."""

    def integer(below: int) -> int:
        return draw(st.integers(0, below - 1)) if below > 1 else 0

    return grow(integer, draw(st.integers(1, max_steps)))
