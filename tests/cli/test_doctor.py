"""``onnxmerge doctor`` says what is here."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort

import onnxmerge
from tests.command_line import Cli


def test_it_says_what_is_here(cli: Cli) -> None:
    done = cli("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["onnxmerge"], found["numpy"]) == (onnxmerge.__version__, np.__version__)
    assert ort.__version__ in {found.get("onnxruntime"), found.get("onnxruntime-gpu")}
    assert found["provider cpu"] == "works"
    assert found["ONNX Runtime's telemetry"] == "off"
    shown = cli("doctor").stdout
    assert all(name in shown and value in shown for name, value in found.items() if "memory" not in name)


def test_the_version_names_the_libraries_too(cli: Cli) -> None:
    first, second = cli("--version").stdout.splitlines()
    assert first == f"onnxmerge {onnxmerge.__version__}"
    assert f"numpy {np.__version__}" in second
