"""``run --sensitivity``: what a user gives, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmerge.cli.main import commands
from onnxmerge.errors import UsageError
from tests.graphs import build, normal

TOKENS = """(float[n,6,4] x) => (float[n,3] y) {
    a = MatMul(x, u)  b = Add(a, ub)  r = Relu(b)  m = MatMul(r, w)  t = Gather<axis=1>(m, first)  y = MatMul(t, h) }"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.onnx and b.onnx, which answer with their first token, and x.npy in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.onnx", "b.onnx")):
        weights = normal(u=(4, 8), ub=(8,), w=(8, 5), h=(5, 3), seed=seed)
        onnx.save(build(TOKENS, {**weights, "first": np.array(0)}), name)
    np.save("x.npy", np.random.default_rng(0).normal(size=(120, 6, 4)).astype(np.float32))
    return tmp_path


def test_it_changes_what_is_solved_and_is_in_the_recipe(folder: Path) -> None:
    given = ("a.onnx", "b.onnx", "--calib", "x.npy", "--method", "average", "--refine", "ls")
    run(*given, "-o", "m.onnx")
    run(*given, "--sensitivity", "0", "-o", "same.onnx")
    run(*given, "--sensitivity", "0.7", "-o", "felt.onnx", "--save-recipe", "r.yaml")
    run("r.yaml", "-o", "again.onnx")
    files = {name: (folder / f"{name}.onnx").read_bytes() for name in ("m", "same", "felt", "again")}
    assert files["m"] == files["same"] != files["felt"] == files["again"]


def test_with_methods_that_are_searched_it_is_of_the_refinement_that_was_chosen(folder: Path) -> None:
    np.save("x.npy", np.load("x.npy")[:30])
    given = ("a.onnx", "b.onnx", "--calib", "x.npy", "--method", "auto", "--refine", "ls", "--sensitivity", "0.7")
    run(*given, "-o", "felt.onnx", "--json", "felt.json")
    assert json.loads((folder / "felt.json").read_text())["method_options"]["sensitivity"] == 0.7


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--refine", "ls", "--sensitivity", "2"), "2.0 is not in the range"),
        (("--refine", "regmean", "--sensitivity", "0.5"), "--refine regmean does not use it; leave it out"),
        (("--refine", "none", "--sensitivity", "0.5"), "--refine none does not use it; leave it out"),
        (("--refine", "auto", "--sensitivity", "0.5"), r"--sensitivity is for --refine ls; choose one \(--refine\)"),
        (("--sensitivity", "0.5"), r"--sensitivity is for --refine ls; choose one \(--refine\)"),
        (("--method", "auto", "--sensitivity", "0.5"), r"--sensitivity is for --refine ls; choose one \(--refine\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: tuple[str, ...], told: str) -> None:
    with pytest.raises((UsageError, click.UsageError), match=told):
        run("a.onnx", "b.onnx", "--calib", "x.npy", "--method", "average", *more, "-o", "m.onnx")
