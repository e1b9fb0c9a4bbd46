"""The certificate of rotations: rotate every unit space that allows it at random; no output may notice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.errors import ValidationError
from onnxmerge.model.comparison import compare, limits_for
from onnxmerge.model.trace import Trace
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing
from onnxmerge.units.rotation import random_rotations, rotated


def certify_rotations(
    typing: Typing, trace: Trace, spaces: Sequence[str], *, weights: Arrays, seed: int, provider: str
) -> None:
    """Rotate ``spaces`` at random in the traced network with ``weights`` and compare outputs on its sample.

    Raises ValidationError, naming the space, where they differ by more than rounding.
    """
    network = trace.network
    outputs = [str(value.name) for value in network.graph.outputs]
    limits = limits_for(network, trace, outputs)
    before = trace.exposed.answers(weights, trace.sample, provider=provider)

    def error(names: Sequence[str]) -> float:
        turned = rotated(weights, typing, random_rotations(typing.spaces, names, seed))
        after = trace.exposed.answers(turned, trace.sample, provider=provider)
        found = [compare(before[name], after[name], limits) for name in before]
        return max((each.relative if each.same else np.inf for each in found), default=0.0)

    if error(spaces) <= limits.tolerance:
        return
    for name in spaces:
        if (found := error([name])) > limits.tolerance:
            raise ValidationError(
                f"{network.label}: rotating the units of space {name} changes the outputs (relative error "
                f"{found:.1e}); leave --rotate out, and report the model"
            )
    raise ValidationError(f"{network.label}: rotating all spaces at once changes the outputs; leave --rotate out")
