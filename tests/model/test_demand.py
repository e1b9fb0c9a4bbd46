"""What a network demands is never more than what running it really takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from onnxmerge.errors import InputError, ResourceError
from onnxmerge.memory import memory_limit
from onnxmerge.model.demand import Demand, demand
from onnxmerge.model.functions import MOST_NODES
from onnxmerge.model.read import read_network
from onnxmerge.model.trace import trace
from tests.graphs import build, normal

SHAPED = """(float[n,4] x) => (y, z) {
    h = MatMul(x, w)  s = Shape(h)  first = Slice(s, zero, one)  t = Concat<axis=0>(first, four)
    r = Reshape(h, t)  e = Expand(half, t)  p = Pad(r, widths)  y = Add(r, e)  z = Relu(p) }"""
WEIGHTS: Mapping[str, ArrayLike] = {
    **normal(w=(4, 8)),
    "zero": [0],
    "one": [1],
    "four": [4, 2],
    "half": 0.5,
    "widths": [0, 0, 0, 0, 1, 1],
}


def sizes(found: Demand, **shapes: tuple[int, ...]) -> dict[str, int]:
    return dict(found._tensors(shapes))


def test_sizes_follow_from_constants_through_shapes() -> None:
    found = sizes(demand(read_network(build(SHAPED, WEIGHTS, check=False))), x=(3, 4))
    assert found["e"] == 3 * 4 * 2 * 4
    assert found["p"] == 3 * 5 * 3 * 4
    assert found["z"] == found["p"]


def test_no_tensor_is_thought_larger_than_it_is(digits: Path) -> None:
    for model in (digits / "a.onnx", build(SHAPED, WEIGHTS, check=False)):
        network = read_network(model)
        traced = trace(network)
        found = sizes(demand(network), **{name: array.shape for name, array in traced.sample.items()})
        assert found == {name: int(np.prod(traced.shapes[name])) * traced.dtypes[name].itemsize for name in found}
        assert len(found) == sum(len(node.outputs) for node in network.graph)


def test_declared_shapes_of_what_is_computed_are_not_believed() -> None:
    network = read_network(build("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }"))
    network.graph.outputs[0].shape = ir.Shape([9999999, 9999999])  # which reading would refuse
    assert sizes(demand(network), x=(2, 4)) == {"y": 32}


def test_shapes_that_double_are_not_followed() -> None:
    steps = " ".join(f"h{step + 1} = Concat<axis=0>(h{step}, h{step})" for step in range(30))
    doubling = build(f"(float[n,4] x) => (y) {{ h0 = Shape(x) {steps} y = Identity(h30) }}", check=False)
    assert not demand(read_network(doubling)).propagates
    dense = " ".join(f"h{step + 1} = Concat<axis=0>(h{step}, h{step})" for step in range(30)).replace("h0", "x")
    assert demand(read_network(build(f"(float[n,4] x) => (y) {{ {dense} y = Relu(h30) }}", check=False))).propagates


def test_of_outputs_all_count_together() -> None:
    network = read_network(build("(float[n,4] x) => (y) { a = Neg(x) b = Neg(a) y = Neg(b) }", check=False))
    feeds = {"x": np.zeros((100, 1000), np.float32)}
    with memory_limit("900KB"):
        demand(network).require_room(feeds)
        with pytest.raises(ResourceError, match=r"what is computed for x:\[100, 1000\] takes 1.2 MB"):
            demand(network).require_room(feeds, all_kept=True)


def test_many_nodes_that_a_file_holds_itself_are_taken() -> None:
    steps = " ".join(f"h{step + 1} = Neg(h{step})" for step in range(500))
    model = build(f"(float[n] x) => (y) {{ h0 = f.once(x) {steps} y = Neg(h500) }}", domains={"f": 1}, check=False)
    body = f'<opset_import: ["": 21], domain: "f"> once (x) => (h500) {{ h0 = Neg(x) {steps} }}'
    model.functions.append(onnx.parser.parse_function(body))
    assert MOST_NODES > 1002
    assert len(read_network(model).graph) == 1002
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "once", "f"
    with pytest.raises(InputError, match="functions call each other in a circle"):
        read_network(model)
