"""Models that compute alike and declare otherwise, and models that do not hold to what they declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike

from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, execute, normal

MLP = "({x} x) => ({y} y) {{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }}"
CONV = """({x} x) => ({y} y) {{
    c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v)
}}"""
BAKED = """(float[n,6] x) => (float[n,3] y) {{
    h = MatMul(x, w) s = Constant<value=int64[3] {{{batch}, 4, 2}}>() q = Reshape(h, s)
    m = ReduceSum<keepdims=0>(q, axes) r = Relu(m) y = MatMul(r, v)
}}"""


def mlp(path: Path, seed: int, x: str = "float[n,6]", y: str = "float[n,3]") -> None:
    model = build(MLP.format(x="float[n,6]", y="float[n,3]"), normal(w=(6, 8), v=(8, 3), seed=seed))
    redeclare(model.graph.input[0], x)
    redeclare(model.graph.output[0], y)
    onnx.save(model, path)


def conv(path: Path, seed: int, x: str, y: str = "float[n,3]") -> None:
    onnx.save(build(CONV.format(x=x, y=y), normal(k=(8, 3, 3, 3), v=(8, 3), seed=seed)), path)


def baked(path: Path, seed: int, batch: int, head: int = 3) -> None:
    """A network that declares a free batch and reshapes to ``batch``."""
    weights: dict[str, ArrayLike] = {**normal(w=(6, 8), v=(4, head), seed=seed), "axes": [2]}
    onnx.save(build(BAKED.format(batch=batch).replace("n,3", f"n,{head}"), weights, check=False), path)


def redeclare(value: onnx.ValueInfoProto, text: str) -> None:
    """Give a value the type of ``text``, such as float[n,3]; ``float[]`` declares no rank."""
    kind = value.type.tensor_type
    if text == "float[]":
        kind.ClearField("shape")
        return
    kind.shape.CopyFrom(build(f"({text} z) => ({text} o) {{ o = Relu(z) }}").graph.input[0].type.tensor_type.shape)


def calibrate(folder: Path, *shape: int) -> None:
    np.savez(folder / "calib.npz", x=np.random.default_rng(1).standard_normal(shape).astype(np.float32))


DECLARED: dict[str, tuple[list[tuple[str, str]], list[int | None]]] = {
    "batch": ([("float[n,6]", "float[n,3]"), ("float[1,6]", "float[1,3]")], [None, 6]),
    "larger batch": ([("float[n,6]", "float[n,3]"), ("float[4,6]", "float[4,3]")], [None, 6]),
    "three": ([("float[1,6]", "float[1,3]"), ("float[n,6]", "float[n,3]"), ("float[1,6]", "float[]")], [None, 6]),
    "no shape of the output": ([("float[n,6]", "float[n,3]"), ("float[n,6]", "float[]")], [None, 6]),
    "no shape in any": ([("float[n,6]", "float[]"), ("float[n,6]", "float[]")], [None, 6]),
    "no rank": ([("float[2,6]", "float[2,3]"), ("float[]", "float[]")], [None, 6]),
    "rank without sizes": ([("float[2,6]", "float[2,3]"), ("float[a,b]", "float[a,c]")], [None, 6]),
}


@pytest.mark.parametrize("case", DECLARED)
def test_what_is_declared_is_no_difference(case: str, tmp_path: Path, cli: Cli) -> None:
    declared, wanted = DECLARED[case]
    calibrate(tmp_path, 24, 6)
    for index, (x, y) in enumerate(declared):
        mlp(tmp_path / f"{index}.onnx", index, x, y)
    for order in permutations(range(len(declared))):
        names = [f"{index}.onnx" for index in order]
        ended = cli("run", *names, "--calib", "calib.npz", "--method", "act-align", "-o", "merged.onnx", "-q")
        assert ended.returncode == 0, ended.stderr
        merged = onnx.load(tmp_path / "merged.onnx")
        assert sizes(merged.graph.input[0]) == wanted
        assert execute(merged, {"x": np.ones((5, 6), np.float32)})["y"].shape == (5, 3)


def sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _height(folder: Path, x: Sequence[str], *options: str) -> list[object]:
    for index, each in enumerate(x):
        conv(folder / f"{index}.onnx", index, each)
    calibrate(folder, 16, 3, 8, 8)
    return ["run", *(f"{index}.onnx" for index in range(len(x))), "--calib", "calib.npz", *options, "-o", "m.onnx"]


def _fixed_inside(folder: Path, batch: int, *options: str, heads: Sequence[int] = (3, 3)) -> list[object]:
    for index, head in enumerate(heads):
        baked(folder / f"{index}.onnx", index, batch, head)
    calibrate(folder, 24, 6)
    return ["run", *(f"{index}.onnx" for index in range(len(heads))), "--calib", "calib.npz", *options, "-o", "m.onnx"]


def _one_fixed_inside(folder: Path, order: Sequence[int]) -> list[object]:
    """One declares batch 1, the other a free one that it does not hold to: what both run is 1."""
    for index in order:
        baked(folder / f"{index}.onnx", index, 1)
    model = onnx.load(folder / "1.onnx")
    redeclare(model.graph.input[0], "float[1,6]")
    onnx.save(model, folder / "1.onnx")
    calibrate(folder, 24, 6)
    return ["run", *(f"{index}.onnx" for index in order), "--calib", "calib.npz", "-o", "m.onnx"]


def _folder(build_up: Callable[..., list[object]], *given: object, **named: object) -> Callable[[Path], list[object]]:
    return lambda folder: build_up(folder, *given, **named)


def _two_sizes(folder: Path, order: Sequence[int]) -> list[object]:
    for index, x in enumerate(("float[2,6]", "float[n,6]", "float[3,6]")):
        mlp(folder / f"{index}.onnx", index, x, "float[]")
    return ["run", *(f"{index}.onnx" for index in order), "--method", "rebasin", "-o", "m.onnx"]


def _evaluated(folder: Path) -> list[object]:
    arguments = _fixed_inside(folder, 1)
    np.save(folder / "labels.npy", np.arange(24) % 3)
    return ["eval", "0.onnx", "--data", arguments[4], "--labels", "labels.npy", "--parents", "0.onnx,1.onnx"]


def _unranked(folder: Path) -> list[object]:
    mlp(folder / "a.onnx", 0, "float[n,6]", "float[]")
    return ["permute", "a.onnx", "-o", "m.onnx"]


def _mixed(folder: Path, *options: str, heads: bool = False) -> list[object]:
    """A free batch beside batches of 1, one of them the base's."""
    mlp(folder / "a.onnx", 0)
    mlp(folder / "base.onnx", 2, "float[1,6]", "float[1,3]")
    if heads:
        weights = normal(w=(6, 8), v=(8, 4), seed=1)
        onnx.save(build(MLP.format(x="float[1,6]", y="float[1,4]"), weights), folder / "b.onnx")
    else:
        mlp(folder / "b.onnx", 1, "float[1,6]", "float[1,3]")
    calibrate(folder, 24, 6)
    return ["run", "a.onnx", "b.onnx", *options, "-o", "m.onnx"]


def _mixed_evaluated(folder: Path) -> list[object]:
    _mixed(folder)
    np.save(folder / "labels.npy", np.arange(24) % 3)
    return ["eval", "b.onnx", "--data", "calib.npz", "--labels", "labels.npy", "--parents", "a.onnx,b.onnx"]


FIXED = ("declares a free batch, but runs on", "at a time only")


@attacks(
    Attack("height", _folder(_height, ("float[n,3,8,8]", "float[n,3,h,w]")), 0, writes=("m.onnx",)),
    Attack("height the other way", _folder(_height, ("float[n,3,h,w]", "float[1,3,8,8]")), 0, writes=("m.onnx",)),
    Attack("with a base", _folder(_mixed, "--method", "ties", "--base", "base.onnx"), 0, writes=("m.onnx",)),
    Attack("with other heads", _folder(_mixed, "--method", "rebasin", heads=True), 0, ("y_a",), ("m.onnx",)),
    Attack("other heads, data", _folder(_mixed, "--calib", "calib.npz", heads=True), 0, ("y_b",), ("m.onnx",)),
    Attack("separate heads", _folder(_mixed, "--calib", "calib.npz", "--heads", "separate"), 0, writes=("m.onnx",)),
    Attack("evaluated", _mixed_evaluated, 0, ("ensemble",)),
    Attack("baked to 1", _folder(_fixed_inside, 1), 0, (*FIXED, "1 sample"), ("m.onnx",)),
    Attack("baked to 2", _folder(_fixed_inside, 2), 0, (*FIXED, "2 samples"), ("m.onnx",)),
    Attack("baked to 5", _folder(_fixed_inside, 5), 0, (*FIXED, "5 samples"), ("m.onnx",)),
    Attack("baked, planned", _folder(_fixed_inside, 1, "--dry-run"), 0, FIXED),
    Attack("baked, searched", _folder(_fixed_inside, 1, "--method", "auto"), 0, FIXED, ("m.onnx",)),
    Attack("baked, least squares", _folder(_fixed_inside, 1, "--refine", "ls"), 0, FIXED, ("m.onnx",)),
    Attack("baked, other heads", _folder(_fixed_inside, 1, heads=(3, 4)), 0, FIXED, ("m.onnx",)),
    Attack("baked, one says so", _folder(_one_fixed_inside, (0, 1)), 0, writes=("m.onnx",)),
    Attack("baked, the other says so", _folder(_one_fixed_inside, (1, 0)), 0, writes=("m.onnx",)),
    Attack("no shape of the output, permuted", _unranked, 0, writes=("m.onnx",)),
    Attack("baked, evaluated", _evaluated, 0, ("ensemble",)),
    *(
        Attack(f"two sizes, {order}", _folder(_two_sizes, order), 1, ("input 'x' is",))
        for order in permutations(range(3))
    ),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_a_batch_that_is_fixed_inside_stays_fixed_in_the_merged_model(tmp_path: Path, cli: Cli) -> None:
    for order in ((0, 1), (1, 0)):
        assert cli(*_one_fixed_inside(tmp_path, order)).returncode == 0
        assert sizes(onnx.load(tmp_path / "m.onnx").graph.input[0]) == [1, 6]
