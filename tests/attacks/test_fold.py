"""``fold``: adapters that are none, that are another model's, and models without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

PLAIN = "(float[n,6] x) => (float[n,8] y) { y = MatMul(x, w) }"
BESIDE = (
    "(float[n,6] x, float[6,r] a, float[r,8] b) => (float[n,8] y)"
    " { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) y = Add(h, q) }"
)


def files(folder: Path, **tensors: np.ndarray) -> None:
    """A model without adapters, one that takes them as inputs, and an adapter of these tensors."""
    weights = normal(w=(6, 8))
    onnx.save(build(PLAIN, weights), folder / "plain.onnx")
    onnx.save(build(BESIDE, weights), folder / "base.onnx")
    given = tensors or {"a": np.ones((6, 2), np.float32), "b": np.ones((2, 8), np.float32)}
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()})
    adapter.export_adapter(str(folder / "task.onnx_adapter"))


def command(*arguments: str, **tensors: np.ndarray) -> Callable[[Path], tuple[str, ...]]:
    def build_it(folder: Path) -> tuple[str, ...]:
        files(folder, **tensors)
        return ("fold", *arguments)

    return build_it


def garbage(folder: Path) -> tuple[str, ...]:
    files(folder)
    (folder / "task.onnx_adapter").write_bytes(b"\x00" * 64)
    return ("fold", *WITH)


WITH = ("base.onnx", "--adapter", "task.onnx_adapter", "-o", "m.onnx")
ONE = {"a": np.ones((6, 2), np.float32)}


@attacks(
    Attack("an adapter put in", command(*WITH), 0, ("2 tensors put in", "1 of rank 2"), ("m.onnx",)),
    Attack("half of an adapter", command(*WITH, **ONE), 1, ("base.onnx", "found no input that runs")),
    Attack("nothing to fold", command("plain.onnx", "-o", "m.onnx"), 1, ("plain.onnx", "nothing to fold")),
    Attack("another model's", command("plain.onnx", *WITH[1:]), 1, ("tensor 'a' is no input of", "plain.onnx")),
    Attack("no adapter", command("base.onnx", "--adapter", "no", "-o", "m.onnx"), 1, ("no: does not exist",)),
    Attack("a folder", command("base.onnx", "--adapter", ".", "-o", "m.onnx"), 1, ("is no regular file",)),
    Attack("no flatbuffer", garbage, 1, ("is not an ONNX Runtime adapter",)),
    Attack("a model for an adapter", command(*WITH[:2], "plain.onnx", "-o", "m.onnx"), 1, ("plain.onnx",)),
    Attack("of another type", command(*WITH, a=np.ones((6, 2))), 1, ("'a' is of float64", "takes float")),
    Attack("of another size", command(*WITH, a=np.ones((5, 2), np.float32)), 1, ("'a' is 5x2", "base.onnx takes")),
    Attack("over the model", command("plain.onnx", "-o", "plain.onnx"), 2, ("is the model itself",)),
    Attack("over the adapter", command(*WITH[:-1], "task.onnx_adapter"), 2, ("is the adapter",)),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
