"""How the time of typing grows with depth: a transformer of 4, 8, 16, 32 and 64 blocks.

    PYTHONPATH=. python tools/bench_typing.py

Prints, for each depth, the nodes, the seconds of trace, typing and certificate, and the typing time per node. Growth
is linear where the last column stays the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmerge.axes.infer import type_graph
from onnxmerge.model import read_network, trace
from onnxmerge.validation.certificate import certify

WIDTH, HEADS, HIDDEN, LENGTH, WORDS = 64, 4, 128, 8, 50


class _Writer:
    """Nodes and weights of a graph in the making; every call returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        size = (shape[0] ** -0.5) if len(shape) > 1 else 0.1
        values = (size * self.rng.standard_normal(shape)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: Sequence[int]) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, value: str, width_in: int, width_out: int) -> str:
        return self.node("Add", self.node("MatMul", value, self.weight(width_in, width_out)), self.weight(width_out))

    def norm(self, value: str) -> str:
        return self.node("LayerNormalization", value, self.weight(WIDTH), self.weight(WIDTH), axis=-1)


def transformer(blocks: int) -> onnx.ModelProto:
    """A pre-norm encoder over token ids, with a head."""
    writer = _Writer()
    stream = writer.node("Gather", writer.weight(WORDS, WIDTH), "ids")
    stream = writer.node("Add", stream, writer.weight(LENGTH, WIDTH))
    for _ in range(blocks):
        stream = writer.node("Add", stream, _attention(writer, writer.norm(stream)))
        inner = writer.node("Relu", writer.linear(writer.norm(stream), WIDTH, HIDDEN))
        stream = writer.node("Add", stream, writer.linear(inner, HIDDEN, WIDTH))
    scores = writer.linear(writer.norm(stream), WIDTH, WORDS)
    graph = helper.make_graph(
        writer.nodes,
        f"transformer{blocks}",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, ["batch", LENGTH, WORDS])],
        writer.weights,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def _attention(writer: _Writer, value: str) -> str:
    heads = []
    for _ in range(3):
        split = writer.node("Reshape", writer.linear(value, WIDTH, WIDTH), writer.constant([0, 0, HEADS, -1]))
        heads.append(writer.node("Transpose", split, perm=[0, 2, 1, 3]))
    scores = writer.node("MatMul", heads[0], writer.node("Transpose", heads[1], perm=[0, 1, 3, 2]))
    mixed = writer.node("MatMul", writer.node("Softmax", scores, axis=-1), heads[2])
    joined = writer.node("Reshape", writer.node("Transpose", mixed, perm=[0, 2, 1, 3]), writer.constant([0, 0, -1]))
    return writer.linear(joined, WIDTH, WIDTH)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Typing time by depth.")
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--certify", action="store_true", help="time the certificate as well")
    arguments = parser.parse_args()
    print("blocks  nodes  trace s  typing s  ms per node  certificate s")
    for blocks in arguments.blocks:
        network = read_network(transformer(blocks))
        nodes = sum(1 for _ in network.graph)
        started = time.perf_counter()
        traced = trace(network)
        tracing = time.perf_counter() - started
        best, typing = float("inf"), None
        for _ in range(max(arguments.repeats, 1)):
            started = time.process_time()
            typing = type_graph(network, traced, (network.weights,))
            best = min(best, time.process_time() - started)
        proof = "-"
        if arguments.certify and typing is not None:
            started = time.perf_counter()
            certificate = certify(typing, traced)
            proof = f"{time.perf_counter() - started:.1f} ({'passed' if certificate.passed else certificate.failure})"
        print(f"{blocks:6} {nodes:6} {tracing:8.2f} {best:9.2f} {1000 * best / nodes:12.2f}  {proof}", flush=True)


if __name__ == "__main__":
    main()
