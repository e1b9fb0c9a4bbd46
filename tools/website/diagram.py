"""A Mermaid graph (`a --> b` a line) as SVG: Mermaid's own script would come from a network when the page is read."""

from __future__ import annotations

import re
from html import escape

import networkx as nx

WIDTH, HEIGHT, ACROSS, DOWN = 92, 28, 10, 40
"""Of a box, and between boxes and rows."""


def svg(text: str) -> str:
    """The graph in rows, each node below all that lead to it; one line, so that Markdown takes it as it is."""
    graph = nx.DiGraph(re.findall(r"^ *(\S+) --> (\S+)$", text, re.MULTILINE))
    rows = _ordered(graph)
    widest = max(len(row) for row in rows)
    width, height = widest * (WIDTH + ACROSS) + ACROSS, len(rows) * (HEIGHT + DOWN) - DOWN + 4
    places = {}
    for down, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + ACROSS) + ACROSS) / 2
        places.update({node: (left + n * (WIDTH + ACROSS), 2 + down * (HEIGHT + DOWN)) for n, node in enumerate(row)})
    parts = []
    for one, other in sorted(graph.edges):
        (x, y), (u, v) = places[one], places[other]
        x, y, u = x + WIDTH / 2, y + HEIGHT, u + WIDTH / 2
        parts.append(
            f'<path d="M{x:.0f} {y:.0f} C{x:.0f} {y + DOWN / 2:.0f} {u:.0f} {v - DOWN / 2:.0f} {u:.0f} {v:.0f}"/>'
        )
    for node, (x, y) in sorted(places.items()):
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>')
        parts.append(f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">{escape(node)}</text>')
    told = escape("; ".join(f"{one} to {other}" for one, other in sorted(graph.edges)))
    return (
        f'<div class="diagram"><svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{told}">{"".join(parts)}</svg></div>'
    )


def _ordered(graph: nx.DiGraph) -> list[list[str]]:
    """Rows of nodes; in each, a node stands near the mean place of those that lead to it."""
    rows = [sorted(row) for row in nx.topological_generations(graph)]
    place: dict[str, float] = {}
    for row in rows:
        wanted = {
            node: sum(place[each] for each in graph.predecessors(node)) / max(graph.in_degree(node), 1) for node in row
        }
        row.sort(key=lambda node: (wanted[node], node))
        place.update({node: n - (len(row) - 1) / 2 for n, node in enumerate(row)})
    return rows
