"""How groups feed one another: order, streams, what is nested, and blocks that repeat."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge import inspect
from onnxmerge.units.flow import INPUT, OUTPUT, Flow, FlowGroup, Link
from tests.graphs import build


def flow(graph: str, **shapes: tuple[int, ...]) -> Flow:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return inspect(build(graph, weights)).flow()


def residual(blocks: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A stream of 6 units, and blocks with 9 hidden units that read it and add to it."""
    body = " ".join(
        f"h{i} = MatMul(s{i}, in_{i}) r{i} = Relu(h{i}) o{i} = MatMul(r{i}, out_{i}) s{i + 1} = Add(s{i}, o{i})"
        for i in range(blocks)
    )
    shapes: dict[str, tuple[int, ...]] = {"stem": (4, 6), "head": (6, 3)}
    for i in range(blocks):
        shapes |= {f"in_{i}": (6, 9), f"out_{i}": (9, 6)}
    return f"(float[n,4] x) => (float[n,3] y) {{ s0 = MatMul(x, stem) {body} y = MatMul(s{blocks}, head) }}", shapes


def test_a_chain_is_in_order_and_knows_its_ends() -> None:
    found = flow(
        "(float[n,6] x) => (float[n,3] y) "
        "{ h = MatMul(x, a) r = Relu(h) g = MatMul(r, b) s = Relu(g) y = MatMul(s, c) }",
        a=(6, 5),
        b=(5, 4),
        c=(4, 3),
    )
    assert not found.streams
    first, second = found.groups
    assert (first.name, first.size, first.reads, first.writes) == ("a", 5, (INPUT,), (second.id,))
    assert (second.name, second.size, second.reads, second.writes) == ("b", 4, (first.id,), (OUTPUT,))


@pytest.mark.parametrize("blocks", [2, 5])
def test_blocks_on_a_stream_are_folded(blocks: int) -> None:
    graph, shapes = residual(blocks)
    found = flow(graph, **shapes)
    (stream,) = found.streams
    assert (stream.name, stream.size) == ("stem", 6)
    assert [row.name for row in found.rows if isinstance(row, FlowGroup)] == [f"in_{i}" for i in range(blocks)]
    assert all(row.reads == row.writes == (stream.id,) for row in found.rows if isinstance(row, FlowGroup))
    first, folded, last = found.blocks()
    assert first.rows == (Link("stem", INPUT, stream.id),)
    assert last.rows == (Link("head", stream.id, OUTPUT),)
    assert (folded.times, len(folded.rows)) == (blocks, 1)
    assert [block.rows[0] for block in found.blocks(folded=False)] == list(found.rows)


def test_a_stream_of_one_block_is_none_that_repeats() -> None:
    graph, shapes = residual(1)
    assert [block.times for block in flow(graph, **shapes).blocks()] == [1, 1, 1]


def test_depthwise_weights_read_no_input() -> None:
    found = flow(
        "(float[n,3,4,4] x) => (float[n,2,4,4] y) { h = Conv(x, a) g = Conv<group=6, pads=[1,1,1,1]>(h, d) "
        "r = Relu(g) y = Conv(r, c) }",
        a=(6, 3, 1, 1),
        d=(6, 1, 3, 3),
        c=(2, 6, 1, 1),
    )
    (group,) = found.groups
    assert (group.reads, group.writes) == ((INPUT,), (OUTPUT,))


def test_one_channel_of_input_is_input_all_the_same() -> None:
    found = flow(
        "(float[n,1,4,4] x) => (float[n,2,2,2] y) { h = Conv(x, a) r = Relu(h) y = Conv(r, c) }",
        a=(6, 1, 3, 3),
        c=(2, 6, 1, 1),
    )
    assert found.groups[0].reads == (INPUT,)
