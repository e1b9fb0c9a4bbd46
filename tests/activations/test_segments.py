"""A network run segment by segment gives what it gives in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.activations.segments import MemoryBudget, Relay, blocked, frontier
from onnxmerge.model.trace import trace
from tests.merging.networks import KEPT, images, residual, values


@pytest.mark.parametrize("limit", [0, 9_000, 1 << 20])
def test_segments_give_what_the_whole_gives(limit: int) -> None:
    net, source = residual(KEPT), images(20, 10)
    whole = [values(net.model, {}, ["q", "c", "e", "y"], feed) for feed in source.feeds]
    makers = {str(value.name): node for node in net.graph for value in node.outputs}
    budget = MemoryBudget(limit)
    relay = Relay(net.model, net.weights, trace(net).dtypes, budget)
    for wanted, after in ((["q"], "c"), (["c"], "d"), (["e", "q"], "r"), (["y"], "y")):
        segment = relay.segment(wanted, frontier(net.graph, blocked(net.graph, {makers[after]})))
        for index, feed in enumerate(source.feeds):
            found = segment.run(index, feed if relay.missing(2) else {})
            for name in wanted:
                np.testing.assert_allclose(found[name], whole[index][name], rtol=1e-4, atol=1e-5)
        assert 0 <= budget.held <= limit


def test_nothing_is_fed_where_the_frontier_is_kept() -> None:
    net, source = residual(), images(10, 10)
    makers = {str(value.name): node for node in net.graph for value in node.outputs}
    relay = Relay(net.model, net.weights, trace(net).dtypes, MemoryBudget(1 << 20))
    relay.segment(["q"], frontier(net.graph, blocked(net.graph, {makers["d"]}))).run(0, source.feeds[0])
    assert not relay.missing(1)
    found = relay.segment(["e"], []).run(0, {})["e"]
    np.testing.assert_allclose(found, values(net.model, {}, ["e"], source.feeds[0])["e"], rtol=1e-4, atol=1e-5)


def test_a_frontier_is_what_the_rest_reads() -> None:
    graph = residual().graph
    makers = {str(value.name): node for node in graph for value in node.outputs}
    behind = blocked(graph, {makers["d"]})
    assert makers["y"] in behind
    assert makers["q"] not in behind
    assert frontier(graph, behind) == ["q"]
    assert frontier(graph, set(graph)) == ["x"]
