"""The unit graph and its exports."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from onnxmerge import inspect
from onnxmerge.errors import UsageError
from onnxmerge.units.graph import graph_text, to_dot, unit_graph
from tests.axes.typed import typed
from tests.graphs import build, normal

MLP = (
    "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) s = Relu(g) y = MatMul(s, w3) }"
)


def graph() -> nx.MultiGraph:
    return unit_graph(typed(build(MLP, normal(w1=(6, 5), w2=(5, 4), w3=(4, 3)))))


def test_edges_carry_axis_and_position() -> None:
    edges = {(a, b, d["axis"], d["position"]) for a, b, d in graph().edges(data=True)}
    assert edges == {
        ("space:p0", "initializer:w1", 1, 0),
        ("space:p0", "initializer:w2", 0, 0),
        ("space:p1", "initializer:w2", 1, 0),
        ("space:p1", "initializer:w3", 0, 0),
    }


def test_heads_and_inner_units_are_joined_by_varies_with(shared: Path) -> None:
    found = inspect(shared / "pairs/cifar5-vit/a.onnx").unit_graph()
    assert sum(d["kind"] == "varies_with" for _, _, d in found.edges(data=True)) == 8


def test_graphml_reads_back(tmp_path: Path) -> None:
    (tmp_path / "units.graphml").write_text(graph_text(graph(), ".graphml"))
    back = nx.read_graphml(tmp_path / "units.graphml")
    assert set(back.nodes) == set(graph().nodes)
    assert back.nodes["space:p0"]["size"] == 5


def test_dot_names_every_node() -> None:
    text = graph_text(graph(), ".dot")
    assert text == to_dot(graph())
    assert all(f'"{node}"' in text for node in graph().nodes)


def test_other_endings_are_errors() -> None:
    with pytest.raises(UsageError, match=r"\.graphml or \.dot"):
        graph_text(graph(), ".png")
