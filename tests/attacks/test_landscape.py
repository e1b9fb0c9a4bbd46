"""Careless commands that ask for a landscape: one line each, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import write_pair
from tests.command_line import Cli
from tests.graphs import build, normal

BASE = ("landscape", "a.onnx", "b.onnx", "m.onnx", "--data", "x.npy", "--method", "rebasin", "--points", 2)


def _asked(*more: object, **arrays: object) -> Callable[[Path], Sequence[object]]:
    """Two models, their second as the merge, ten samples, other ``arrays`` as files, and the command."""

    def build_it(folder: Path) -> Sequence[object]:
        write_pair(folder)
        (folder / "m.onnx").write_bytes((folder / "b.onnx").read_bytes())
        for name, array in {"x": np.zeros((10, 6), np.float32), **arrays}.items():
            np.save(folder / f"{name}.npy", np.asarray(array))
        return [*BASE, *more]

    return build_it


def _merged(graph: str, **shapes: tuple[int, ...]) -> Callable[[Path], Sequence[object]]:
    """The same with another network as the merge."""

    def build_it(folder: Path) -> Sequence[object]:
        command = _asked()(folder)
        onnx.save(
            build(f"(float[N,6] x) => {graph}", {name: np.ones(shape, np.float32) for name, shape in shapes.items()}),
            folder / "m.onnx",
        )
        return command

    return build_it


def _whole_numbers(folder: Path) -> Sequence[object]:
    command = _asked()(folder)
    graph = "(float[N,6] x) => (int64[N] y) { h = Gemm(x, w, b)  y = ArgMax<axis=1, keepdims=0>(h) }"
    for seed, name in enumerate("abm"):
        onnx.save(build(graph, normal(w=(6, 3), b=(3,), seed=seed)), folder / f"{name}.onnx")
    return command


def _no_numbers(folder: Path) -> Sequence[object]:
    command = _asked()(folder)
    hidden = "h = Gemm(x, w, b) r = Relu(h) z = Gemm(r, v, c)"
    graph = f"(float[N,6] x) => (float[N,3] y) {{ {hidden} a = Abs(z) n = Neg(a) y = Sqrt(n) }}"
    for seed, name in enumerate("abm"):
        onnx.save(build(graph, normal(w=(6, 8), b=(8,), v=(8, 3), c=(3,), seed=seed)), folder / f"{name}.onnx")
    return command


HEADS = (
    "(float[N,3] y, float[N,3] z) { f = Identity(x) h = Gemm(f, w, b) r = Relu(h) y = Gemm(r, v, c) z = Gemm(r, v, c) }"
)
WIDER = "(float[N,3] y) { f = Identity(x) h = Gemm(f, w, b) r = Relu(h) y = Gemm(r, v, c) }"


@attacks(
    Attack("two heads", _merged(HEADS, w=(6, 8), b=(8,), v=(8, 3), c=(3,)), says=("m.onnx", "no plane")),
    Attack("another width", _merged(WIDER, w=(6, 9), b=(9,), v=(9, 3), c=(3,)), says=("m.onnx", "no plane")),
    Attack("no floats", _whole_numbers, exit_code=3, says=("a.onnx", "float values")),
    Attack("no numbers", _no_numbers, says=("a.onnx: output 'y'", "no finite number")),
    Attack("no merge", lambda folder: _asked()(folder)[:3], 2, ("MERGED.onnx",)),
    Attack("too few labels", _asked("--labels", "y.npy", y=[0, 1]), says=("found 2 labels", "10 samples")),
    Attack("labels beyond", _asked("--labels", "y.npy", y=[7] * 10), says=("has label 7", "3 classes")),
    Attack("labels of words", _asked("--labels", "y.npy", y=["cat"] * 10), says=("y.npy", "is no number")),
    Attack("tasks alone", _asked("--task", "low=0-1"), 2, ("give the labels too",)),
    Attack("vectors alone", _asked("--vectors", "v.npy", v=np.eye(3)), 2, ("give the labels too",)),
    Attack("an output that is none", _asked("--outputs", "q=logits"), 2, ("no output 'q'",)),
    Attack("a picture in no format", _asked("-o", "p.bmp"), 2, (".svg or .png or .csv",)),
    Attack("one picture twice", _asked("-o", "p.svg", "-o", "p.svg"), 2, ("p.svg",)),
    Attack("onto an input", _asked("-o", "x.csv", "--labels", "x.csv"), 2, ("x.csv",)),
    Attack("other data", _asked(x=np.zeros((10, 5), np.float32)), says=("x.npy", "10x5")),
    Attack("a method that zips", _asked("--method", "zipit"), 2, ("zipit",)),
    Attack("a merge that is a parent", _asked("-o", "p.svg", "-o", "p.csv"), 0, writes=("p.svg", "p.csv")),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
