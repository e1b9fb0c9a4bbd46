"""The unit graph (networkx): spaces, initializers and where the ones stand in the others."""

from onnxmerge.units.graph import to_dot, unit_graph, write_graph

__all__ = ["to_dot", "unit_graph", "write_graph"]
