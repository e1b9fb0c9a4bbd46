"""What is left open is decided on held-out data, or by labels: whole ways to merge, methods, alphas, repairs.

``judging`` says how good merged weights are, ``examining`` asks them what labels answer. ``effort`` tries ways to
merge, ``search`` methods and alphas, ``repairing`` repairs; ``choosing`` puts it together.
"""
