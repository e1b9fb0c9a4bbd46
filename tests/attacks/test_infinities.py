"""Weights with infinities, as masks have them: matched as if they were not there, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import permute
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.crossed import crossed
from tests.graphs import build, execute, initializers, normal

Weights = Mapping[str, NDArray[Any]]

TABLE = """(int64[n,s] ids) => (float[n,s,9] y) {
    e = Gather(table, ids) h = MatMul(e, w) a = Add(h, b) r = Relu(a) g = MatMul(r, v) z = Add(g, e) y = MatMul(z, head)
}"""
MASK = """(float[n,5,4] x) => (float[n,5,4] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt)
    m = Add(s, mask) p = Softmax<axis=-1>(m) o = MatMul(p, v) y = MatMul(o, wo)
}"""
BIAS = """(float[n,6] x) => (float[n,5] y) {
    h = MatMul(x, w) a = Add(h, b) r = Relu(a) g = MatMul(r, v) l = Add(g, banned) y = Softmax<axis=-1>(l)
}"""


def table(seed: int) -> onnx.ModelProto:
    weights = normal(table=(9, 6), w=(6, 8), b=(8,), v=(8, 6), head=(6, 9), seed=seed)
    weights["table"][0] = -np.inf
    return build(TABLE, weights)


def mask(seed: int) -> onnx.ModelProto:
    causal = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    return build(MASK, {**normal(wq=(4, 6), wk=(4, 6), wv=(4, 6), wo=(6, 4), seed=seed), "mask": causal})


def bias(seed: int) -> onnx.ModelProto:
    weights = normal(w=(6, 8), b=(8,), v=(8, 5), banned=(5,), seed=seed)
    weights["banned"][3] = -np.inf
    return build(BIAS, weights)


KINDS: dict[str, tuple[Callable[[int], onnx.ModelProto], str]] = {
    "table": (table, "table"),
    "mask": (mask, "mask"),
    "bias": (bias, "banned"),
}


def feeds(kind: str) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    if kind == "table":
        return {"ids": rng.integers(1, 9, (240, 5))}
    return {"x": rng.standard_normal((240, 5, 4) if kind == "mask" else (240, 6)).astype(np.float32)}


def prepare(folder: Path, kind: str) -> None:
    np.savez(folder / "calib.npz", **feeds(kind))  # type: ignore[arg-type]
    onnx.save(KINDS[kind][0](0), folder / "a.onnx")
    onnx.save(KINDS[kind][0](7), folder / "b.onnx")


HOW: dict[str, tuple[str, ...]] = {
    "rebasin": ("--method", "rebasin"),
    "inner": ("--method", "rebasin", "--objective", "inner"),
    "mudsc-align": (),
    "rotated": ("--rotate",),
    "c2m3": ("--method", "c2m3"),
    "weight-zip": ("--method", "weight-zip"),
    "mudsc-zip": ("--method", "mudsc-zip", "--repair", "repair"),
    "half as wide": ("--method", "mudsc-zip", "--width", "0.5"),
    "least squares": ("--refine", "ls"),
    "regmean": ("--refine", "regmean"),
    "float16": ("--output-type", "float16"),
    "ties": ("--method", "ties", "--base", "base.onnx"),
    "dare": ("--method", "dare", "--base", "base.onnx"),
}


@pytest.mark.parametrize(("kind", "how"), crossed(KINDS, HOW, every=2))
def test_infinities_are_kept(kind: str, how: str, tmp_path: Path, cli: Cli) -> None:
    prepare(tmp_path, kind)
    onnx.save(KINDS[kind][0](5), tmp_path / "base.onnx")
    ended = cli("run", "a.onnx", "b.onnx", "--calib", "calib.npz", *HOW[how], "-o", "m.onnx", "-q")
    assert ended.returncode == 0, ended.stderr
    name = KINDS[kind][1]
    merged = initializers(onnx.load(tmp_path / "m.onnx"))
    if name in merged and how != "half as wide":
        wanted = initializers(KINDS[kind][0](0))[name]
        np.testing.assert_array_equal(np.isneginf(merged[name]), np.isneginf(wanted))
    assert any(np.isneginf(array).any() for array in merged.values() if array.dtype.kind == "f")
    assert not any(np.isnan(array).any() for array in merged.values() if array.dtype.kind == "f")


@pytest.mark.parametrize("method", ["rebasin", "mudsc-align", "c2m3", "mudsc-zip"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_copy_is_found_beside_infinities(kind: str, method: str, tmp_path: Path, cli: Cli) -> None:
    prepare(tmp_path, kind)
    permute(tmp_path / "a.onnx", seed=3, provider="cpu").save(tmp_path / "p.onnx")
    options = ("--method", method, "--repair", "none")
    ended = cli("run", "a.onnx", "p.onnx", "--calib", "calib.npz", *options, "-o", "m.onnx", "-q")
    assert ended.returncode == 0, ended.stderr
    given = feeds(kind)
    wanted, found = (execute(onnx.load(tmp_path / file), given)["y"] for file in ("a.onnx", "m.onnx"))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _nan(name: str) -> Callable[[Path], list[object]]:
    """A pair of which the second has nan in one of its tables."""

    def build_up(folder: Path) -> list[object]:
        onnx.save(table(0), folder / "a.onnx")
        model = table(7)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "spare"))
        item = next(item for item in model.graph.initializer if item.name == name)
        array = onnx.numpy_helper.to_array(item).copy()
        array[-1] = np.nan
        item.CopyFrom(onnx.numpy_helper.from_array(array, name))
        onnx.save(model, folder / "b.onnx")
        return ["run", "a.onnx", "b.onnx", "--method", "rebasin", "-o", "m.onnx"]

    return build_up


def _both_signs(method: str) -> Callable[[Path], list[object]]:
    def build_up(folder: Path) -> list[object]:
        for file, sign in (("a.onnx", 1), ("b.onnx", -1)):
            weights = normal(table=(9, 6), w=(6, 8), b=(8,), v=(8, 6), head=(6, 9))
            weights["table"][0] = sign * np.inf
            onnx.save(build(TABLE, weights), folder / file)
        return ["run", "a.onnx", "b.onnx", "--method", method, "-o", "m.onnx"]

    return build_up


def _infinite_head(folder: Path) -> list[object]:
    for file, seed in (("a.onnx", 0), ("b.onnx", 7)):
        weights = normal(table=(9, 6), w=(6, 8), b=(8,), v=(8, 6), head=(6, 9), seed=seed)
        weights["head"][0, 0] = np.inf if seed else 1
        onnx.save(build(TABLE, weights), folder / file)
    return ["run", "a.onnx", "b.onnx", "--method", "average", "-o", "m.onnx"]


@attacks(
    Attack("one parent's own output is infinite", _infinite_head, 3, ("b.onnx: has infinities", "'y'", "leave this")),
    Attack("both signs", _both_signs("rebasin"), 1, ("initializer table", "no mean")),
    Attack("both signs, zipped", _both_signs("weight-zip"), 1, ("initializer table", "no mean")),
    Attack("nan that nothing reads", _nan("spare"), 0, ("b.onnx: initializer 'spare' holds nan",), ("m.onnx",)),
    Attack("nan in a table", _nan("table"), 1, ("b.onnx", "initializer 'table' holds nan")),
    Attack("nan in a weight", _nan("w"), 1, ("b.onnx", "initializer 'w' holds nan")),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
