"""How good embedding models are at the tasks of their parents."""
