"""The linear layers of a graph: which they are, how rows of numbers meet their weights, and what normalises them."""
