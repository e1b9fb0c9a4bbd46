"""What each ONNX Runtime release accepts, asked of the release itself: opset, IR version, its makers' own operators.

    python tools/runtime_versions.py 1.17.3 1.18.1 1.19.2
    python3.10 tools/runtime_versions.py 1.12.1 1.13.1 1.14.1 --names names.txt

installs each release into a folder of its own, which is deleted afterwards, hands it models that ask for more than it
can, and prints what its refusals say, as lines of specs/targets/onnxruntime.yaml. ``operators`` are those of the domain
com.microsoft that the release before did not have; releases are named in their order. Which names are tried says the
ONNX Runtime of this Python (1.31 or newer), or a file with one a line, which --save-names writes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FUTURE = 99
"""A version that no release knows."""

PROBE = f"""
import json, re, sys
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

ort.set_default_logger_severity(4)
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]

def refused(node, opset, ir_version):
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return ""

relu = helper.make_node("Relu", ["x"], ["y"])
opset = re.search(r"is till opset (\\d+)", refused(relu, {FUTURE}, 7))
ir = re.search(r"max supported IR version: (\\d+)", refused(relu, 13, {FUTURE}))
unknown = "is not a registered function/op"
names = json.load(sys.stdin)

def known(name):
    return unknown not in refused(helper.make_node(name, ["x"], ["y"], domain="com.microsoft"), 13, 7)

assert not known("Frobnicate")
found = [name for name in names if known(name)]
print(json.dumps({{"opset": int(opset[1]), "ir": int(ir[1]), "operators": found}}))
"""

NAMES = """
import json
from onnxruntime.capi import onnxruntime_pybind11_state as state
print(json.dumps(sorted({each.name for each in state.get_all_operator_schema() if each.domain == "com.microsoft"})))
"""


def main() -> None:
    """Ask each release that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*")
    parser.add_argument("--names", type=Path, help="operators to ask for, one a line")
    parser.add_argument("--save-names", type=Path, help="write the operators that the installed ONNX Runtime has")
    options = parser.parse_args()
    names = options.names.read_text().split() if options.names else _names()
    if options.save_names:
        options.save_names.write_text("".join(f"{name}\n" for name in names))
    before: set[str] = set()
    for release in options.releases:
        found = _asked(release, names)
        number = ".".join(release.split(".")[:2])
        new = [name for name in found["operators"] if name not in before]
        before |= set(new)
        print(f'  "{number}":\n    opset: {found["opset"]}\n    ir: {found["ir"]}', flush=True)
        print(f"    operators: [{', '.join(new)}]" if new else "    operators: []", flush=True)


def _names() -> list[str]:
    # Its extra providers complain on standard output where they find no CUDA.
    said = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    names: list[str] = json.loads(said.stdout.splitlines()[-1])
    return names


def _asked(release: str, names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        # Releases before 1.19 were built for numpy 1, those that follow for either.
        packages = [f"onnxruntime=={release}", "numpy<2", "onnx==1.17.0", "protobuf<6", "ml_dtypes<0.6"]
        subprocess.run([*install, *packages], check=True, stderr=subprocess.DEVNULL)  # noqa: S603 - releases that the caller names
        asked = subprocess.run(  # noqa: S603 - the probe above
            [sys.executable, "-c", PROBE],
            env={**os.environ, "PYTHONPATH": folder, "ORT_DISABLE_TELEMETRY": "1"},
            input=json.dumps(names),
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
