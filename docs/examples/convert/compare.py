"""How far conversions of an ONNX model are from it: python compare.py merged.onnx merged.ort merged.xml images.npz."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def outputs(path: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs by name: of an OpenVINO IR (.xml), or of an ONNX model or one in the ORT format."""
    if path.endswith(".xml"):
        import openvino

        # By default OpenVINO takes bfloat16 where the processor has it.
        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = model(dict(feeds))
        return {output.any_name: found[output] for output in model.outputs}
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def main() -> None:
    """Print max |a - b| / max |a| for each conversion; exit with 1 where one is above 1e-4."""
    model, *conversions, data = sys.argv[1:]
    with np.load(data) as arrays:
        feeds = {name: arrays[name][:64] for name in arrays.files}
    wanted = outputs(model, feeds)
    worst = 0.0
    for path in conversions:
        found = outputs(path, feeds)
        off = max(float(np.abs(wanted[name] - found[name]).max() / np.abs(wanted[name]).max()) for name in wanted)
        print(f"{path}: {off:.1e}")
        worst = max(worst, off)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
