"""How many samples are enough: as many as tell units apart, for the rest adds time and no knowledge.

A correlation over n rows is known to about 1/sqrt(n), and a unit is told from as many others as its space has. One
sample gives a dense layer one row, but a convolution one for each pixel and a transformer one for each token, so what
is ample for one network is scarce for another. With fewer rows than units their correlations are those of the data, not
of the network: that is too few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxmerge.activations.measuring import POSITIONS
from onnxmerge.activations.statistics import GramRequest
from onnxmerge.units.layout import Typing

LEAST = 512
"""Samples from which a mean and a deviation of each unit are known well enough, however many rows each gives."""

FEWEST = 64
"""With fewer samples the deviation of a unit is not even known to a tenth: its relative error is 1/sqrt(2 n)."""

ROWS_PER_UNIT = 128
"""Rows of activations for each unit of the space in which it is to be told from the others."""


def enough(typing: Typing, requests: Sequence[GramRequest], traced: int) -> int:
    """The samples needed for ``requests``; ``traced`` is the number of samples that the typing's shapes are of."""
    return max([LEAST, *(needed(typing, request, traced) for request in requests)])


def too_few(typing: Typing, requests: Sequence[GramRequest], traced: int, found: int) -> str | None:
    """What to say of ``found`` samples where they are too few: how many the widest group needs; None where they do."""
    wants = {request.space: needed(typing, request, traced, 1) for request in requests}
    widest = max(wants, key=lambda space: wants[space], default=None)
    least = max(FEWEST, 0 if widest is None else wants[widest])
    if found >= least:
        return None
    few = f"{found:,} calibration sample{' is' if found == 1 else 's are'} few: "
    if widest is None:
        return f"{few}the mean and deviation of each unit need {least:,} or more"
    purpose = "tell its units apart" if least > FEWEST else "know the mean and deviation of each unit"
    group = f"the widest group, {widest} of {typing.spaces[widest].size:,} units,"
    return f"{few}{group} needs {least:,} or more to {purpose}"


def needed(typing: Typing, request: GramRequest, traced: int, per_unit: int = ROWS_PER_UNIT) -> int:
    """The samples that give so many rows for each unit of a request; ``traced`` as for `enough`."""
    space = typing.spaces[request.space]
    units = math.prod(typing.spaces[name].size for name in (*space.varies_with, space.id))
    rows = sum(min(_elements(typing, tensor, space.id) / units / traced, POSITIONS) for tensor in request.tensors)
    return math.ceil(per_unit * units / rows) if rows else 0


def _elements(typing: Typing, tensor: str, space: str) -> int:
    """How many numbers of the traced activation belong to units of a space."""
    blocks = [block for block in typing.activations[tensor].blocks if space in block.spaces]
    return sum(math.prod(axis.positions.size for axis in block.axes) for block in blocks)
