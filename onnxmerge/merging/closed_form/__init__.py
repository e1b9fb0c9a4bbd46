"""Solve a merged network's linear layers anew, in closed form, without labels and without training.

The methods are ``least_squares`` and ``regmean`` in ``refinements``. Both take a ``context``, the matched average, and
stand on the same parts: ``targets`` says what each layer aims at and in which order layers are solved, ``ridge`` solves
from sums of products. Least squares has three steps of its own: ``aims`` asks the parents, with ``consensus`` and
``sensitivity``; ``prefix_runner`` measures the merged network, with ``accumulator``; ``solution`` solves for what was
measured.
"""
