"""How good models are at tasks: labels, heads, metrics, and the scores of a model as data streams past."""
