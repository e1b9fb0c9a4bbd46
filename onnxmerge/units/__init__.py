"""The unit graph (networkx): spaces, initializers and where the ones stand in the others."""

from onnxmerge.units.graph import neighbours, to_dot, unit_graph, write_graph

__all__ = ["neighbours", "to_dot", "unit_graph", "write_graph"]
