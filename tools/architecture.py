"""Draw the rooms of the package and which imports from which into docs/architecture.md: the arrows that imply all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx as nx

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "architecture.md"
PICTURE = re.compile(r"(?<=<!-- picture -->\n).*(?=<!-- /picture -->)", re.DOTALL)


def imports(package: Path) -> Iterator[tuple[str, str]]:
    """Every import inside the package as (module, module), such as ("api.merge", "pipeline.job")."""
    for path in sorted(package.rglob("*.py")):
        own = ".".join(path.relative_to(package).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from ((own, name.partition(".")[2]) for name in names if name.startswith(f"{package.name}."))


def rooms(package: Path, found: Iterable[tuple[str, str]]) -> nx.DiGraph:
    """The rooms (folders), with an edge from each to every other that it imports from, by the imports ``found``."""
    graph = nx.DiGraph()
    graph.add_nodes_from(sorted(each.name for each in package.iterdir() if any(each.glob("*.py"))))
    for one, other in found:
        edge = one.partition(".")[0], other.partition(".")[0]
        if edge[0] != edge[1] and all(room in graph for room in edge):
            graph.add_edge(*edge)
    return graph


def mermaid(graph: nx.DiGraph) -> str:
    """The graph without the edges that others imply, as a diagram in Markdown."""
    edges = sorted(nx.transitive_reduction(graph).edges)
    return "\n".join(["```mermaid", "graph TD", *(f"    {one} --> {other}" for one, other in edges), "```", ""])


def drawn(page: str, graph: nx.DiGraph) -> str:
    """The page with this picture."""
    return PICTURE.sub(mermaid(graph), page)


if __name__ == "__main__":
    package = CHECKOUT / "onnxmerge"
    PAGE.write_text(drawn(PAGE.read_text(), rooms(package, imports(package))))
