"""What of the traced sample is enough to look at a large network."""

from __future__ import annotations

from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.model.interface import resized_batch
from onnxmerge.model.trace import Trace
from onnxmerge.types import Arrays


def one_row(trace: Trace) -> Arrays:
    """The first row of the traced sample of a large network, where its rows are a batch; else all of it.

    A network may be fixed to the traced batch inside, and not run on it.
    """
    specs = input_specs(trace.network.model)
    free = is_batched(specs) and fixed_batch(specs) is None
    return resized_batch(trace.sample, 1) if trace.exposed.large and free else trace.sample
