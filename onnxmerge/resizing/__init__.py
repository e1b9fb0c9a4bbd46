"""Networks whose merged groups have another width: which groups can, where their units stand, and the graph for it."""
