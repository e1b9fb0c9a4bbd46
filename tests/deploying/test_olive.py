"""The example of docs/examples/olive: Olive runs a merge as a pass, and quantises what comes out."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxmerge

pytestmark = pytest.mark.slow


def test_a_merge_is_a_pass(checkout: Path, digits: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("olive") is None:
        pytest.skip("olive-ai is not installed (docs/examples/olive/requirements.txt)")
    folder = tmp_path / "docs" / "examples" / "olive"
    shutil.copytree(checkout / "docs" / "examples" / "olive", folder)
    (tmp_path / "onnxmerge").symlink_to(checkout / "onnxmerge")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    setting, program, *arguments = block.splitlines()[-1].split()
    assert program == ".venv/bin/python"
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **dict([setting.split("=")]), "PYTHONPATH": str(checkout), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    made = folder / "out" / "model.onnx"
    assert Path(ended.stdout.splitlines()[-1]).samefile(made)
    assert made.stat().st_size < (digits / "a.onnx").stat().st_size / 2  # in 8 bits
    test = digits / "test.npz"
    scores = onnxmerge.evaluate([made], test, labels=test, tasks=digits / "task.json").models[-1].scores
    assert scores.average is not None
    assert np.mean(scores.average) > 0.9
