"""Networks of real size with seeded weights: a vision transformer, an encoder and a decoder, as exporters write them.

The values are drawn, not trained: time and memory do not depend on them, but for the turns that a search takes. So are
those of fine-tunes: each is the network of a seed and what a task changed, a few strong directions and a little of
everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

EMBEDDED = 1 << 30
"""Bytes of weights up to which they lie in the model's own file."""


@dataclass(frozen=True, slots=True)
class Transformer:
    """Sizes of a transformer: an encoder of images or tokens, or a decoder."""

    width: int
    hidden: int
    heads: int
    blocks: int
    words: int

    def scaled(self, blocks: int) -> Transformer:
        """The same with another depth."""
        return Transformer(self.width, self.hidden, self.heads, blocks, self.words)


VIT_B16 = Transformer(width=768, hidden=3072, heads=12, blocks=12, words=1000)
BERT_BASE = Transformer(width=768, hidden=3072, heads=12, blocks=12, words=30522)
DECODER = Transformer(width=1280, hidden=3456, heads=20, blocks=21, words=32000)
DECODER_10G = Transformer(width=2560, hidden=6912, heads=32, blocks=29, words=32000)
SIDE, PATCH = 224, 16
LENGTH = 128
"""Tokens that BERT's positions and the decoder's rotary tables are for."""
CHANGE = 0.02
"""Length of what a task changes, as a part of the weight's: half of its square in DIRECTIONS, half in all entries."""
DIRECTIONS = 16


@dataclass(slots=True)
class _Writer:
    """Nodes and weights of a graph in the making; every call returns the name of what it made.

    Weights are written as they are drawn: one is in memory at a time, where they are too many for one file.
    """

    path: Path
    seed: int
    task: int | None
    apart: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    written: int = 0

    @property
    def data(self) -> Path:
        return self.path.with_name(f"{self.path.name}.data")

    def weight(self, *shape: int, mean: float = 0.0, deviation: float | None = None) -> str:
        """A learned tensor, drawn by its fan-in unless a deviation is given."""
        name = f"w{len(self.initializers)}"
        rng = np.random.default_rng([self.seed, len(self.initializers)])
        size = shape[0] ** -0.5 if deviation is None else deviation
        values = rng.standard_normal(shape, np.float32)
        values *= np.float32(size)
        values += np.float32(mean)
        if self.task is not None:
            values += _learnt(values, np.random.default_rng([self.seed, len(self.initializers), 1 + self.task]))
        if not self.apart:
            self.initializers.append(numpy_helper.from_array(values, name))
            return name
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.data.name), ("offset", self.written), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        with self.data.open("ab") as stream:
            values.tofile(stream)
        self.written += values.nbytes
        self.initializers.append(tensor)
        return name

    def constant(self, values: NDArray[Any] | Sequence[int] | float) -> str:
        name = f"c{len(self.initializers)}"
        array = np.array(values, np.float32) if isinstance(values, float) else np.asarray(values)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, value: str, width_in: int, width_out: int, *, bias: bool = True) -> str:
        found = self.node("MatMul", value, self.weight(width_in, width_out))
        return self.node("Add", found, self.weight(width_out, deviation=0.05)) if bias else found

    def norm(self, value: str, width: int) -> str:
        scale, shift = self.weight(width, mean=1.0, deviation=0.1), self.weight(width, deviation=0.1)
        return self.node("LayerNormalization", value, scale, shift, axis=-1)

    def rms_norm(self, value: str, width: int) -> str:
        square = self.node("ReduceMean", self.node("Mul", value, value), self.constant(np.array([-1])))
        root = self.node("Sqrt", self.node("Add", square, self.constant(1e-5)))
        scale = self.weight(width, mean=1.0, deviation=0.1)
        return self.node("Mul", self.node("Div", value, root), scale)

    def gelu(self, value: str) -> str:
        inner = self.node("Erf", self.node("Div", value, self.constant(math.sqrt(2.0))))
        half = self.node("Mul", value, self.constant(0.5))
        return self.node("Mul", half, self.node("Add", inner, self.constant(1.0)))

    def attention(self, value: str, sizes: Transformer, *, bias: bool = True, rotary: bool = False) -> str:
        """Self-attention; ``rotary``: positions by rotation, and none of what comes after."""
        width = sizes.width
        split = self.constant(np.array([0, 0, sizes.heads, width // sizes.heads]))
        made = [
            self.node(
                "Transpose", self.node("Reshape", self.linear(value, width, width, bias=bias), split), perm=[0, 2, 1, 3]
            )
            for _ in range(3)
        ]
        queries, keys = (self._rotated(each, width // sizes.heads) for each in made[:2]) if rotary else made[:2]
        scores = self.node("MatMul", queries, self.node("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", scores, self.constant((width // sizes.heads) ** -0.5))
        if rotary:
            mask = np.triu(np.full((LENGTH, LENGTH), -1e9, np.float32), 1)
            scores = self.node("Add", scores, self.constant(mask))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), made[2])
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self.node("Reshape", joined, self.constant(np.array([0, 0, -1])))
        return self.linear(joined, width, width, bias=bias)

    def _rotated(self, value: str, depth: int) -> str:
        angles = np.outer(np.arange(LENGTH), 10000.0 ** (-np.arange(0, depth, 2) / depth))
        angles = np.concatenate([angles, angles], axis=1).astype(np.float32)
        ends = [self.constant(np.array([each])) for each in (0, depth // 2, depth)]
        axis = self.constant(np.array([3]))
        left = self.node("Slice", value, ends[0], ends[1], axis)
        right = self.node("Slice", value, ends[1], ends[2], axis)
        turned = self.node("Concat", self.node("Neg", right), left, axis=3)
        still = self.node("Mul", value, self.constant(np.cos(angles)))
        return self.node("Add", still, self.node("Mul", turned, self.constant(np.sin(angles))))

    def save(self, given: tuple[str, int, Sequence[str | int]], output: str, shape: Sequence[str | int]) -> None:
        graph = helper.make_graph(
            self.nodes,
            self.path.stem,
            [helper.make_tensor_value_info(*given)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.initializers,
        )
        model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
        self.path.write_bytes(model.SerializeToString())


def _learnt(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What a task changed in a weight: directions of falling strength, and noise in every entry."""
    part = np.float32(CHANGE * np.sqrt(np.square(values, dtype=np.float64).mean() / 2))
    noise = rng.standard_normal(values.shape, np.float32)
    if values.ndim < 2:
        return math.sqrt(2) * part * noise
    rows, columns = len(values), values.size // len(values)
    strengths = (1 + np.arange(DIRECTIONS, dtype=np.float32)) ** -0.5
    left, right = (rng.standard_normal((size, DIRECTIONS), np.float32) for size in (rows, columns))
    directions = (left * (strengths / np.linalg.norm(strengths))) @ right.T
    noise += directions.reshape(values.shape)
    return part * noise


def _writer(path: Path, seed: int, sizes: Transformer, task: int | None = None) -> _Writer:
    weights = sizes.blocks * sizes.width * (4 * sizes.width + 3 * sizes.hidden) + 2 * sizes.words * sizes.width
    writer = _Writer(path, seed, task, apart=4 * weights > EMBEDDED)
    writer.data.unlink(missing_ok=True)
    return writer


def vit(path: Path, seed: int, sizes: Transformer = VIT_B16, task: int | None = None) -> None:
    """A vision transformer: pre-norm, a class token, learned positions. Images [batch, 3, 224, 224].

    ``task``: the number of the task that it was fine-tuned on, None where it is the base.
    """
    writer, width = _writer(path, seed, sizes, task), sizes.width
    kernel = writer.weight(width, 3, PATCH, PATCH, deviation=(3 * PATCH * PATCH) ** -0.5)
    patches = writer.node(
        "Conv", "image", kernel, writer.weight(width, deviation=0.05), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2
    )
    tokens = writer.node("Reshape", patches, writer.constant(np.array([0, width, -1])))
    tokens = writer.node("Transpose", tokens, perm=[0, 2, 1])
    batch = writer.node("Gather", writer.node("Shape", tokens), writer.constant(np.array([0])))
    shape = writer.node("Concat", batch, writer.constant(np.array([1, width])), axis=0)
    first = writer.node("Expand", writer.weight(1, 1, width, deviation=0.5), shape)
    stream = writer.node("Concat", first, tokens, axis=1)
    stream = writer.node("Add", stream, writer.weight(1, 1 + (SIDE // PATCH) ** 2, width, deviation=0.5))
    for _ in range(sizes.blocks):
        stream = writer.node("Add", stream, writer.attention(writer.norm(stream, width), sizes))
        hidden = writer.gelu(writer.linear(writer.norm(stream, width), width, sizes.hidden))
        stream = writer.node("Add", stream, writer.linear(hidden, sizes.hidden, width))
    pooled = writer.node("Gather", writer.norm(stream, width), writer.constant(np.array(0)), axis=1)
    scores = writer.linear(pooled, width, sizes.words)
    writer.save(("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]), scores, ["batch", sizes.words])


def bert(path: Path, seed: int, sizes: Transformer = BERT_BASE) -> None:
    """An encoder of tokens: post-norm, learned positions, two classes. Ids [batch, 128]."""
    writer, width = _writer(path, seed, sizes), sizes.width
    stream = writer.node("Gather", writer.weight(sizes.words, width, deviation=0.5), "ids")
    stream = writer.node("Add", stream, writer.weight(LENGTH, width, deviation=0.5))
    stream = writer.norm(stream, width)
    for _ in range(sizes.blocks):
        stream = writer.norm(writer.node("Add", stream, writer.attention(stream, sizes)), width)
        hidden = writer.gelu(writer.linear(stream, width, sizes.hidden))
        stream = writer.norm(writer.node("Add", stream, writer.linear(hidden, sizes.hidden, width)), width)
    first = writer.node("Gather", stream, writer.constant(np.array(0)), axis=1)
    scores = writer.linear(writer.node("Tanh", writer.linear(first, width, width)), width, 2)
    writer.save(("ids", TensorProto.INT64, ["batch", LENGTH]), scores, ["batch", 2])


def decoder(path: Path, seed: int, sizes: Transformer = DECODER, task: int | None = None) -> None:
    """A decoder as of the Llama family: RMSNorm, rotary positions, SwiGLU, no biases. Ids [batch, 128]."""
    writer, width = _writer(path, seed, sizes, task), sizes.width
    stream = writer.node("Gather", writer.weight(sizes.words, width, deviation=0.5), "ids")
    for _ in range(sizes.blocks):
        mixed = writer.attention(writer.rms_norm(stream, width), sizes, bias=False, rotary=True)
        stream = writer.node("Add", stream, mixed)
        seen = writer.rms_norm(stream, width)
        gate = writer.linear(seen, width, sizes.hidden, bias=False)
        gate = writer.node("Mul", gate, writer.node("Sigmoid", gate))
        hidden = writer.node("Mul", gate, writer.linear(seen, width, sizes.hidden, bias=False))
        stream = writer.node("Add", stream, writer.linear(hidden, sizes.hidden, width, bias=False))
    scores = writer.linear(writer.rms_norm(stream, width), width, sizes.words, bias=False)
    writer.save(("ids", TensorProto.INT64, ["batch", LENGTH]), scores, ["batch", LENGTH, sizes.words])
