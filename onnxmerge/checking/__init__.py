"""The gate: what a model is held to before it ships, each check by itself, with a verdict that a machine can act on."""
