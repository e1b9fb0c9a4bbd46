"""What each ONNX Runtime release accepts: the newest opset and IR version, asked of the release itself.

    python tools/runtime_versions.py 1.17.3 1.18.1 1.19.2

installs each release into a folder of its own, which is deleted afterwards, hands it models of an opset and an IR
version from the future, and prints what the refusals say is the newest, as lines of specs/targets/onnxruntime.yaml.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

FUTURE = 99
"""A version that no release knows."""

PROBE = f"""
import re, sys
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

ort.set_default_logger_severity(4)
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])

def refused(opset, ir_version):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return ""

opset = re.search(r"is till opset (\\d+)", refused({FUTURE}, 7))
ir = re.search(r"max supported IR version: (\\d+)", refused(13, {FUTURE}))
print(opset[1] if opset else "?", ir[1] if ir else "?")
"""


def main() -> None:
    """Ask each release that is named."""
    for release in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
            # Releases before 1.19 were built for numpy 1, those that follow for either.
            packages = [f"onnxruntime=={release}", "numpy<2", "onnx==1.17.0", "protobuf<6", "ml_dtypes<0.6"]
            subprocess.run([*install, *packages], check=True, stderr=subprocess.DEVNULL)  # noqa: S603 - releases that the caller names
            asked = subprocess.run(  # noqa: S603 - the probe above
                [sys.executable, "-c", PROBE],
                env={"PYTHONPATH": folder, "ORT_DISABLE_TELEMETRY": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
        found = asked.stdout.split() or ["?", "?"]
        number = ".".join(release.split(".")[:2])
        print(f'  "{number}": {{opset: {found[0]}, ir: {found[1]}}}', flush=True)


if __name__ == "__main__":
    main()
