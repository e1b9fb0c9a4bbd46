"""Arguments that nobody meant to give: numbers out of all bounds, no names, half of a notation."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.model import write
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
LONG = "9" * 5000


def files(folder: Path) -> None:
    for index, name in enumerate("ab"):
        onnx.save(build(MLP, normal(w1=(6, 5), w2=(5, 3), seed=index)), folder / f"{name}.onnx")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))
    np.save(folder / "y.npy", np.zeros(64, np.int64))


def given(*arguments: str, code: int = 2, says: tuple[str, ...] = (), writes: tuple[str, ...] = ()) -> Attack:
    def build_case(folder: Path) -> list[str]:
        files(folder)
        return list(arguments)

    name = " ".join(argument[:40] or "nothing" for argument in arguments).removeprefix("run a.onnx b.onnx -o m.onnx ")
    return Attack(name, build_case, exit_code=code, says=says, writes=writes)


def run(*arguments: str, code: int = 2, says: tuple[str, ...] = (), method: str = "average") -> Attack:
    writes = ("m.onnx",) if code == 0 else ()
    return given(
        "run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", method, *arguments, code=code, says=says, writes=writes
    )


def scored(*arguments: str, code: int = 2, says: tuple[str, ...] = ()) -> Attack:
    return given("eval", "a.onnx", "--data", "x.npy", "--labels", "y.npy", *arguments, code=code, says=says)


@attacks(
    given("nosuch", "command", says=("No such command",)),
    given("run", says=("Missing argument",)),
    given("run", "", "b.onnx", "-o", "m.onnx", says=("is no path",)),
    given("inspect", "", says=("is no path",)),
    given("inspect", "a.onnx", "b.onnx", says=("unexpected extra argument",)),
    given("inspect", "x" * 300, code=1, says=("File name too long",)),
    given("inspect", "x/" * 3000, code=1),
    given("inspect", "a.onnx", "--seed", "-1", says=("--seed",)),
    given("inspect", "a.onnx", "--seed", "1e3", says=("--seed",)),
    given("inspect", "a.onnx", "--seed", LONG, says=("--seed",)),
    given("inspect", "a.onnx", "--certify", "--seed", "9" * 40, code=0),
    given("inspect", "a.onnx", "--input", "x", says=("NAME:SHAPE",)),
    given("inspect", "a.onnx", "--input", "", says=("NAME:SHAPE",)),
    given("inspect", "a.onnx", "--input", ":1,6", says=("NAME:SHAPE",)),
    given("inspect", "a.onnx", "--input", "x:", says=("neither a shape",)),
    given("inspect", "a.onnx", "--input", "x:²", says=("neither a shape",)),
    given("inspect", "a.onnx", "--input", f"x:{LONG}", says=("neither a shape",)),
    given("inspect", "a.onnx", "--input", "x:-1,6", says=("neither a shape",)),
    given("inspect", "a.onnx", "--input", "x:no.npy", code=1, says=("no.npy",)),
    given("inspect", "a.onnx", "--input", "x:.npy", code=1, says=(".npy",)),
    given("inspect", "a.onnx", "--operators", "", says=("is no path",)),
    given("inspect", "a.onnx", "--max-memory", "nan", says=("amount of memory",)),
    given("inspect", "a.onnx", "--max-memory", "1MB", says=("takes 100 MB by itself",)),
    given("permute", "a.onnx", says=("Missing option",)),
    run("--seed", "9" * 40, says=("below 2**63",)),
    run("--samples", "0", says=("--samples",)),
    run("--samples", "9" * 30, "--calib", "x.npy", says=("below 2**63",)),
    run("--samples", LONG, says=("--samples",)),
    run("--batch-size", "-1", says=("--batch-size",)),
    run("--batch-size", "9" * 30, "--calib", "x.npy", says=("below 2**63",)),
    run("--scale", "nan", method="ties", says=("finite",)),
    run("--scale", "nan", "--base", "a.onnx", method="ties", says=("finite",)),
    run("--scale", "inf", "--base", "a.onnx", method="ties", says=("finite",)),
    run("--density", "nan", "--base", "a.onnx", method="ties", says=("--density",)),
    run("--alpha", "nan", "--calib", "x.npy", method="mudsc-align", says=("--alpha",)),
    run("--alpha", "inf", "--calib", "x.npy", method="mudsc-align", says=("--alpha",)),
    run("--width", "nan", "--calib", "x.npy", method="zipit", says=("--width",)),
    run("--width", "inf", "--calib", "x.npy", method="zipit", says=("--width",)),
    run("--zip-a", "nan", "--calib", "x.npy", method="zipit", says=("from 0 to 1",)),
    run("--share", "nan", "--calib", "x.npy", method="mudsc-align", says=("--share",)),
    run("--weights", "nan,1", says=("--weights",)),
    run("--weights", "1e308,1e308", says=("finite",)),
    run("--weights", ",", says=("--weights",)),
    run("--weights", "AUTO", says=("numbers separated by commas",)),
    run("--weights", "auto,1", says=("numbers separated by commas",)),
    run("--weights", "auto", says=("compares what the models answer: give calibration data",)),
    run("--weights", "auto", "--calib", "x.npy", says=("200 samples or more",)),
    run("--weights", "auto", "--calib", "x.npy", method="auto", says=("leave --method auto out",)),
    run("--weights", "auto", "--calib", "x.npy", "--alpha", "auto", method="mudsc-align", says=("in place of auto",)),
    run("--weights", "auto", "--calib", "x.npy", "--base", "a.onnx", method="ties", says=("give numbers",)),
    run("--weights", "auto", "--calib", "x.npy", "--heads", "separate", says=("each for itself",)),
    run("--weights", "auto", "--calib", "x.npy", "--until", "h", says=("each for itself",)),
    given("run", "a.onnx", "-o", "m.onnx", "--weights", "auto", "--calib", "x.npy", says=("two models or more",)),
    run("--calib", "", says=("is no path",)),
    run("--image-size", "²", "--calib", "x.npy", says=("HEIGHTxWIDTH",)),
    run("--image-size", LONG, "--calib", "x.npy", says=("HEIGHTxWIDTH",)),
    run("--image-size", "1x2x3", "--calib", "x.npy", says=("HEIGHTxWIDTH",)),
    run("--until", "", says=("has no node or tensor",)),
    scored("--top-k", "²", says=("--top-k",)),
    scored("--top-k", LONG, says=("--top-k",)),
    scored("--top-k", "", says=("--top-k",)),
    scored("--top-k", "0", says=("--top-k",)),
    scored("--task", "t=²", says=("no label",)),
    scored("--task", f"t={LONG}", says=("no label",)),
    scored("--task", "t=0-99999999999999999", says=("more than",)),
    scored("--task", "=", says=("expected NAME=LABELS",)),
    scored("--tasks", "", says=("is no path",)),
    scored("--parents", "nosuch.onnx", code=1, says=("nosuch.onnx",)),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_an_unforeseen_oserror_is_no_bug(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)

    def fail(*_args: object, **_settings: object) -> None:
        raise OSError(24, "Too many open files", "somewhere")

    monkeypatch.setattr("onnxmerge.api.inspect", fail)
    done = cli("inspect", "a.onnx")
    assert (done.returncode, done.stderr) == (1, "error: somewhere: Too many open files\n")


def test_warnings_of_libraries_reach_nobody(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    check = write._check

    def warn(path: Path, where: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)
        check(path, where)

    monkeypatch.setattr(write, "_check", warn)
    done = cli("permute", "a.onnx", "-o", "m.onnx")
    assert (done.returncode, done.stderr) == (0, "")
