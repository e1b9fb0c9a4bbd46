"""Inputs that neither the model nor the data says enough of, given with --input, and what contradicts the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike

from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

SQUARE = """(float[n,s] x) => (float[n,3] y) {
    f = Reshape(x, to) h = MatMul(f, w) r = Relu(h) y = MatMul(r, v)
}"""
SCALED = """(float[n,6] x, float[{gain}] gain) => (float[n,3] y) {{
    g = Mul(x, gain) h = MatMul(g, w) r = Relu(h) y = MatMul(r, v)
}}"""


def odd(path: Path, seed: int) -> None:
    """It takes 7919 numbers a sample, which nobody guesses."""
    weights: dict[str, ArrayLike] = {**normal(w=(7919, 4), v=(4, 3), seed=seed), "to": [-1, 7919]}
    onnx.save(build(SQUARE, weights), path)


def scaled(path: Path, seed: int, gain: str) -> None:
    onnx.save(build(SCALED.format(gain=gain).replace("float[]", "float"), normal(w=(6, 8), v=(8, 3), seed=seed)), path)


def _odd(*options: str) -> Callable[[Path], list[object]]:
    def build_up(folder: Path) -> list[object]:
        for seed, name in enumerate(("a.onnx", "b.onnx")):
            odd(folder / name, seed)
        np.save(folder / "x.npy", np.ones((2, 7919), np.float32))
        np.savez(folder / "calib.npz", x=np.random.default_rng(1).standard_normal((8, 7919)).astype(np.float32))
        return ["run", "a.onnx", "b.onnx", "--method", "rebasin", *options]

    return build_up


def _recipe(folder: Path) -> list[object]:
    _odd()(folder)
    (folder / "r.yaml").write_text(
        "models: [a.onnx, b.onnx]\nmethod: rebasin\ninputs: {x: [1, 7919]}\noutput: m.onnx\n"
    )
    return ["run", "r.yaml"]


def _scaled(gain: str, value: ArrayLike, *options: str, method: str = "mudsc-align") -> Callable[[Path], list[object]]:
    def build_up(folder: Path) -> list[object]:
        for seed, name in enumerate(("a.onnx", "b.onnx")):
            scaled(folder / name, seed, gain)
        np.save(folder / "gain.npy", np.asarray(value, np.float32))
        np.savez(folder / "calib.npz", x=np.random.default_rng(1).standard_normal((24, 6)).astype(np.float32))
        arguments = ["run", "a.onnx", "b.onnx", "--method", method, "--calib", "calib.npz", "-o", "m.onnx"]
        return [*arguments, "--input", "gain:gain.npy", *options]

    return build_up


OUT = ("-o", "m.onnx")


@attacks(
    Attack("nothing known", _odd(*OUT), 1, ("a.onnx", "--input NAME:SHAPE")),
    Attack("shape", _odd(*OUT, "--input", "x:2,7919"), 0, writes=("m.onnx",)),
    Attack("value", _odd(*OUT, "--input", "x:x.npy"), 0, writes=("m.onnx",)),
    Attack("planned", _odd("--dry-run", "--input", "x:2,7919"), 0),
    Attack("recipe", _recipe, 0, writes=("m.onnx",)),
    Attack("saved", _odd(*OUT, "--input", "x:x.npy", "--save-recipe", "r.yaml"), 0, writes=("m.onnx", "r.yaml")),
    Attack("data and its shape", _odd(*OUT, "--calib", "calib.npz", "--input", "x:1,7919"), 0, writes=("m.onnx",)),
    Attack("data and another shape", _odd(*OUT, "--calib", "calib.npz", "--input", "x:1,9"), 2, ("contradicts",)),
    Attack("data and a value", _odd(*OUT, "--calib", "calib.npz", "--input", "x:x.npy"), 2, ("values for it too",)),
    Attack("no such input", _odd(*OUT, "--input", "z:1,2"), 1, ("no input 'z'",)),
    Attack("no such input, with data", _odd(*OUT, "--calib", "calib.npz", "--input", "z:1,2"), 2, ("no such input",)),
    Attack("no shape", _odd(*OUT, "--input", "x:1,a"), 2, ("neither a shape",)),
    Attack("no file", _odd(*OUT, "--input", "x:y.npy"), 1, ("y.npy",)),
    Attack("a value that data lacks", _scaled("n,6", np.ones((1, 6))), 0, writes=("m.onnx",)),
    Attack("a row without its batch", _scaled("n,6", np.ones(6)), 0, writes=("m.onnx",)),
    Attack("a scalar that data lacks", _scaled("", 2.0), 0, writes=("m.onnx",)),
    Attack("searched", _scaled("n,6", np.ones(6), method="auto"), 0, writes=("m.onnx",)),
    Attack("too many rows", _scaled("n,6", np.ones((2, 6))), 2, ("give one",)),
    Attack("another width", _scaled("n,6", np.ones((1, 5))), 1, ("'gain'",)),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
