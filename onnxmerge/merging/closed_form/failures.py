"""What is told where a layer cannot be solved by the data."""

from __future__ import annotations

from onnxmerge.errors import InputError
from onnxmerge.merging.closed_form.targets import LayerTarget


def not_finite(target: LayerTarget) -> InputError:
    """What to raise where a layer's activations are not numbers."""
    return InputError(
        f"{target.layer.node}: activations on the calibration data are not finite; check its scale and values"
    )


def no_data() -> InputError:
    """What to raise where there is nothing to measure."""
    return InputError("no calibration data reached the network; expected at least one batch")
