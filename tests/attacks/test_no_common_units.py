"""Models that cannot be merged as they are, and what is said to help: quantised weights, adapters of other ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from onnxmerge import permute
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

QDQ = """(float[n,6] x) => (float[n,3] y) {
    w = DequantizeLinear(wq, ws, wz) h = MatMul(x, w) r = Relu(h) v = DequantizeLinear(vq, vs, vz) y = MatMul(r, v)
}"""
RESTORED = """(float[n,6] x) => (float[n,3] y) {
    c = Cast<to=1>(wq) w = Mul(c, ws) h = MatMul(x, w) r = Relu(h)
    d = Cast<to=1>(vq) z = Cast<to=1>(vz) e = Sub(d, z) v = Mul(e, vs) y = MatMul(r, v)
}"""
LORA = """(float[n,16] x) => (float[n,5] y) {
    m = MatMul(x, w) la = MatMul(x, a) lb = MatMul(la, b) ls = Mul(lb, s) z = Add(m, ls) r = Relu(z) y = MatMul(r, v)
}"""
BOTTLENECK = (
    """(float[n,16] x) => (float[n,16] y) { la = MatMul(x, a) lb = MatMul(la, b) r = Relu(lb) y = Add(r, x) }"""
)


def quantised(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.integers(-127, 127, shape, dtype=np.int8) for name, shape in {"wq": (6, 8), "vq": (8, 3)}.items()
    }
    scales = {name: np.float32(0.01) for name in ("ws", "vs")}
    return build(QDQ, {**weights, **scales, "wz": np.int8(0), "vz": np.int8(0)})


def unknown(seed: int) -> onnx.ModelProto:
    """A product of integers that is cast, and not scaled."""
    weights = {"w": np.random.default_rng(seed).integers(-9, 9, (6, 3), dtype=np.int8)}
    graph = """(float[n,6] x) => (float[n,3] y) {
        q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z) y = Cast<to=1>(m)
    }"""
    return build(graph, weights)


def restored(seed: int) -> onnx.ModelProto:
    """Quantised by hand: integers, and plain operators that make floats of them."""
    rng = np.random.default_rng(seed)
    weights = {"wq": rng.integers(-127, 127, (6, 8), dtype=np.int8), "vq": rng.integers(0, 255, (8, 3), dtype=np.uint8)}
    return build(
        RESTORED, {**weights, "ws": np.float32(0.01), "vs": np.float32(0.01), "vz": np.uint8(rng.integers(255))}
    )


def adapted(rank: int) -> onnx.ModelProto:
    weights = normal(w=(16, 32), a=(16, rank), b=(rank, 32), v=(32, 5), seed=rank)
    return build(LORA, {**weights, "s": np.float32(2.0)})


def bottleneck(rank: int) -> onnx.ModelProto:
    return build(BOTTLENECK, normal(a=(16, rank), b=(rank, 16), seed=rank))


def _pair(
    make: Callable[[int], onnx.ModelProto], one: int, other: int, *options: str
) -> Callable[[Path], list[object]]:
    def build_up(folder: Path) -> list[object]:
        onnx.save(make(one), folder / "a.onnx")
        onnx.save(make(other), folder / "b.onnx")
        return ["run", "a.onnx", "b.onnx", "--method", "rebasin", "-o", "m.onnx", *options]

    return build_up


def _based(folder: Path) -> list[object]:
    for name, seed in (("a", 0), ("b", 0), ("base", 1)):
        onnx.save(quantised(seed), folder / f"{name}.onnx")
    return ["run", "a.onnx", "b.onnx", "--method", "ties", "--base", "base.onnx", "-o", "m.onnx"]


def _permuted(make: Callable[[int], onnx.ModelProto]) -> Callable[[Path], list[object]]:
    def build_up(folder: Path) -> list[object]:
        onnx.save(make(0), folder / "a.onnx")
        permute(folder / "a.onnx", seed=3, provider="cpu").save(folder / "b.onnx")
        return ["run", "a.onnx", "b.onnx", "--method", "rebasin", "-o", "m.onnx"]

    return build_up


QUANTISED = ("a.onnx", "quantised", "merge the float models, then quantise")
RANKS = ("rank 4", "8", "fold each adapter into its base weight first")


@attacks(
    Attack("quantised", _pair(quantised, 0, 1), 0, writes=("m.onnx",)),
    Attack("quantised, planned", _pair(quantised, 0, 1, "--dry-run"), 0),
    Attack("quantised, joint", _pair(quantised, 0, 1, "--heads", "joint"), 0, writes=("m.onnx",)),
    Attack("quantised, with a base", _based, 0, writes=("m.onnx",)),
    Attack("quantised in a way that is not known", _pair(unknown, 0, 1), says=(*QUANTISED, "node")),
    Attack("the same, planned", _pair(unknown, 0, 1, "--dry-run"), says=(*QUANTISED, "node")),
    Attack("the same, itself", _pair(unknown, 0, 0), 0, writes=("m.onnx",)),
    Attack("quantised, itself", _pair(quantised, 0, 0), 0, writes=("m.onnx",)),
    Attack("quantised, permuted", _permuted(quantised), 0, writes=("m.onnx",)),
    Attack("quantised by hand", _pair(restored, 0, 1), says=QUANTISED),
    Attack("quantised by hand, permuted", _permuted(restored), 0, writes=("m.onnx",)),
    Attack("adapters", _pair(adapted, 4, 8), says=RANKS),
    Attack("adapters, planned", _pair(adapted, 4, 8, "--dry-run"), says=RANKS),
    Attack("adapters of one rank", _pair(adapted, 4, 4), 0, writes=("m.onnx",)),
    Attack("no adapter", _pair(bottleneck, 4, 8), says=("differ in structure",)),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
