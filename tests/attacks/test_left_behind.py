"""Nothing appears on the user's disk that no option asked for: no caches, no telemetry, no temporary files.

ONNX Runtime's reports to its makers must be off before it is imported; it also keeps quiet where CI is set, which would
hide that they are on. All commands run in one process, as that is where the time goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.cli.commands import COMMANDS
from tests.attacks.attack import CHECKOUT, contents
from tests.attacks.pair import write_pair
from tests.graphs import build, normal

_RUN = """
import sys
from onnxmerge.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["onnxmerge", *line.split()]
    try:
        main()
    except SystemExit as left:
        assert not left.code, line
"""
_HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR")


def _python(code: str, folder: Path, *, lines: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python where every folder that programs like to write to is an empty one."""
    (folder / "homes").mkdir()
    empty = {name: str(folder / "homes" / name) for name in _HOMES}
    for path in empty.values():
        Path(path).mkdir()
    own = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    environment = {**own, **empty, "PYTHONPATH": str(CHECKOUT), **more}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, input=lines, capture_output=True, text=True, check=False
    )


def test_no_command_writes_outside_its_outputs(tmp_path: Path) -> None:
    write_pair(tmp_path)
    a, b, calib = "a.onnx", "b.onnx", "x.npy"
    np.save(tmp_path / calib, np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.zeros(96, np.int64))
    branch = "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) y = Add(h, q)"
    lora = build(f"(float[n,6] x) => (float[n,8] y) {{ {branch} }}", normal(w=(6, 8), a=(6, 2), b=(2, 8)))
    onnx.save(lora, tmp_path / "lora.onnx")
    lines = (
        f"inspect {a} --certify --json\n"
        f"permute {a} -o permuted.onnx\n"
        f"run {a} {b} --calib {calib} --method rebasin -o merged.onnx -q\n"
        f"plan {a} {b} --calib {calib}\n"
        f"eval merged.onnx --data {calib} --labels y.npy --parents {a},{b}\n"
        f"check merged.onnx --against {a} {b} --calib {calib}\n"
        f"compare {a} permuted.onnx --data {calib}\n"
        "report merged.onnx -o page.html\n"
        f"landscape {a} {b} merged.onnx --data {calib} --method rebasin --points 2 --samples 64\n"
        "fold lora.onnx -o plain.onnx\n"
        "doctor\n"
        "demo --method zipit"  # one way: what the default tries is tested elsewhere
    )
    assert {line.split()[0] for line in lines.splitlines()} == set(COMMANDS)
    ended = _python(_RUN, tmp_path, lines=lines)
    assert ended.returncode == 0, ended.stderr
    assert "merged (zipit)" in ended.stdout  # the demo's table
    assert "plain average" in ended.stdout
    models = {"a.onnx", "b.onnx", "permuted.onnx", "merged.onnx", "lora.onnx", "plain.onnx"}
    assert set(contents(tmp_path)) == models | {"x.npy", "y.npy", "page.html"}


@pytest.mark.slow  # matplotlib looks for fonts
def test_a_picture_of_pixels_leaves_no_fonts_behind(tmp_path: Path, digits: Path) -> None:
    a, b, calib = (digits / name for name in ("a.onnx", "b.onnx", "calib.npz"))
    line = f"landscape {a} {b} {a} --data {calib} --method rebasin --points 2 --samples 64 -o around.png"
    ended = _python(_RUN, tmp_path, lines=line)
    assert ended.returncode == 0, ended.stderr
    assert set(contents(tmp_path)) == {"around.png"}


def test_telemetry_is_off_for_who_imports_the_package_and_decided_by_who_said_otherwise(tmp_path: Path) -> None:
    code = "import onnxmerge, os, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _python(code, tmp_path).stdout == "1\n"
    assert contents(tmp_path) == {}
    other = tmp_path / "other"
    other.mkdir()
    assert _python(code.replace(", onnxruntime", ""), other, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
