"""The unit graph (networkx): spaces, initializers and where the ones stand in the others."""

from onnxmerge.units.graph import graph_text, to_dot, unit_graph

__all__ = ["graph_text", "to_dot", "unit_graph"]
