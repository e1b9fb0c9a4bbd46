"""The unit graph: which spaces stand in which initializers.

Nodes are spaces and initializers. An edge between them carries the axis and the factor position at which the space
stands; an edge between two spaces says that one varies with the other. Two spaces that share an initializer see each
other's matching; spaces without a common neighbour can be solved at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmerge.errors import UsageError
from onnxmerge.text import printable
from onnxmerge.units.layout import Typing

if TYPE_CHECKING:
    import networkx as nx

SUFFIXES = (".graphml", ".dot")


def unit_graph(typing: Typing) -> nx.MultiGraph:
    """Build the graph of the free spaces of a typing. Node ids are ``space:ID`` and ``initializer:NAME``.

    Names are escaped where they are not printable: neither XML nor Graphviz can hold every character.
    """
    import networkx as nx

    graph = nx.MultiGraph()
    free = {name: space for name, space in typing.spaces.items() if space.free}
    for name, space in free.items():
        graph.add_node(f"space:{name}", kind="space", label=name, size=space.size)
    for name, space in free.items():
        for outer in space.varies_with:
            if outer in free:
                graph.add_edge(f"space:{name}", f"space:{outer}", kind="varies_with")
    for raw, layout in typing.initializers.items():
        name = printable(raw)
        node = f"initializer:{name}"
        graph.add_node(node, kind="initializer", label=name, shape="x".join(map(str, layout.shape)))
        places = {
            (space, axis, position)
            for block in layout.blocks
            for axis, axis_block in enumerate(block.axes)
            for position, space in enumerate(axis_block.spaces)
            if space in free
        }
        for space_id, axis, position in sorted(places):
            graph.add_edge(node, f"space:{space_id}", kind="axis", axis=axis, position=position)
    return graph


def graph_text(graph: nx.MultiGraph, suffix: str) -> str:
    """The graph as what files of this ending hold, one of ``SUFFIXES``; UsageError for another."""
    if suffix == ".dot":
        return to_dot(graph)
    if suffix == ".graphml":
        import networkx as nx

        return "\n".join([*nx.generate_graphml(graph), ""])
    raise UsageError(f"the unit graph is written as {' or '.join(SUFFIXES)}, not as {suffix!r}")


def to_dot(graph: nx.MultiGraph) -> str:
    """Graphviz text: spaces as ellipses with their size, initializers as boxes with their shape."""
    lines = ["graph units {", "  overlap=false;"]
    for node, data in graph.nodes(data=True):
        shape, detail = ("ellipse", data["size"]) if data["kind"] == "space" else ("box", data["shape"])
        lines.append(f'  "{_quoted(node)}" [shape={shape}, label="{_quoted(data["label"])}\\n{detail}"];')
    for one, other, data in graph.edges(data=True):
        style = "style=dashed" if data["kind"] == "varies_with" else f'label="axis {data["axis"]}"'
        lines.append(f'  "{_quoted(one)}" -- "{_quoted(other)}" [{style}];')
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
