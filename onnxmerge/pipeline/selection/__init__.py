"""What is left open is decided on held-out data, or by labels: whole ways to merge, methods, alphas, repairs.

``held_out`` says how good merged weights are, by their parents or by labels (``labelled``). ``effort`` tries ways to
merge, ``weighing`` how much each model counts (both by ``trials``), ``search`` methods and alphas, ``repairing``
repairs; ``choosing`` puts it together.
"""
