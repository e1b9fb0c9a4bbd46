"""Models of a few bytes that ask for any amount of memory or time: refused at once, by name, whatever they grow by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import ArrayLike

from onnxmerge.model.runtimes import onnx_runtime
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

TERA = 1 << 40
LIMIT = "200MB"
"""What the cases may take that ask for little enough to be given it."""

Build = Callable[[Path], list[str]]


def _model(graph: str, weights: Mapping[str, ArrayLike] | None = None, *more: str) -> Build:
    """`inspect` of a model; ``more`` are further arguments."""

    def write(folder: Path) -> list[str]:
        onnx.save(build(graph, weights, check=False), folder / "a.onnx")
        return ["inspect", "a.onnx", *more]

    return write


def _grown(node: str, **weights: ArrayLike) -> Build:
    """A layer, and beside it a node that makes a huge tensor."""
    text = f"(float[n,4] x) => (float[n,3] y, z) {{ y = MatMul(x, w)  [bomb] z = {node} }}"
    return _model(text, {**normal(w=(4, 3)), **weights})


def _while_running(nodes: str, **weights: ArrayLike) -> Build:
    """The same, of a size ``m`` (2**26, as an int64 of rank 1) that comes from a value: at most LIMIT may be taken."""
    text = f"""(float[n,4] x) => (float[n,3] y, z) {{
        y = MatMul(x, w)  a = Abs(x)  s = ReduceMax<keepdims=0>(a)  one = Div(s, s)  big = Mul(one, size)
        k = Cast<to=7>(big)  m = Reshape(k, rank)  {nodes} }}"""
    given = {**normal(w=(4, 3)), "size": np.float32(1 << 26), "rank": [1], **weights}
    return _model(text, given, "--max-memory", LIMIT)


def _chain(operator: str, count: int, *more: str) -> Build:
    """``count`` nodes of two operands, both the result of the one before."""
    steps = " ".join(f"h{index + 1} = {operator}(h{index}, h{index})" for index in range(count))
    return _model(
        f"(float[n,4] x) => (float[n,a] y) {{ h0 = MatMul(x, w) {steps} y = Relu(h{count}) }}", normal(w=(4, 4)), *more
    )


def _functions(depth: int, *, circle: bool = False) -> Build:
    """Functions that each call the one before twice; the first may call the last."""

    def write(folder: Path) -> list[str]:
        last = f"f.f{depth}" if circle else "Relu"
        texts = [f'<opset_import: ["": 21, "f": 1], domain: "f"> f0 (x) => (y) {{ y = {last}(x) }}']
        texts += [
            f'<opset_import: ["": 21, "f": 1], domain: "f"> f{step + 1} (x) => (y) {{ h = f.{own}(x) y = f.{own}(h) }}'
            for step, own in enumerate(f"f{index}" for index in range(depth))
        ]
        model = build(
            f"(float[n,4] x) => (float[n,3] y) {{ h = f.f{depth}(x) y = MatMul(h, w) }}",
            normal(w=(4, 3)),
            domains={"f": 1},
            check=False,
        )
        model.functions.extend(map(onnx.parser.parse_function, texts))
        onnx.save(model, folder / "a.onnx")
        return ["inspect", "a.onnx"]

    return write


def _loop(trips: str, body: str = "t = Add(s, s)", limit: str = LIMIT, **weights: ArrayLike) -> Build:
    """A Loop, by an expression for its trips, with a state ``s`` that becomes ``t``; it never ends itself."""
    text = f"""(float[n,4] x) => (float[a,b] y) {{
        h = MatMul(x, w)  {trips}
        y = Loop<body = inner (int64 i, bool k, float[c,d] s) => (bool k2, float[e,f] t) {{
            k2 = Identity(k)  {body} }}>(m, yes, h) }}"""
    return _model(
        text, {**normal(w=(4, 4)), "yes": np.bool_(1), **weights}, *(("--max-memory", limit) if limit else ())
    )


SIZES = [1 << 20, 1 << 20]


@attacks(
    Attack("tile", _grown("Tile(x, r)", r=SIZES), says=("'z'", "may be taken", "--max-memory")),
    Attack("expand", _grown("Expand(c, s)", c=1.0, s=SIZES), says=("'z'", "may be taken")),
    Attack("constant-of-shape", _grown("ConstantOfShape(s)", s=SIZES), says=("'z'", "4.4 TB")),
    Attack("range", _grown("Range(a, b, c)", a=0, b=TERA, c=1), says=("'z'", "8.8 TB")),
    Attack("pad", _grown("Pad(x, p)", p=[0, 0, TERA, 0]), says=("'z'",)),
    Attack("one-hot", _grown("OneHot(i, d, v)", i=[0, 1], d=TERA, v=[0.0, 1.0]), says=("'z'",)),
    Attack(
        "resize",
        _model("""(float[n,1,8,8] x) => (float[n,1,a,b] y) { y = Resize(x, , s) }""", {"s": [1.0, 1.0, 1e6, 1e6]}),
        says=("'y'",),
    ),
    Attack("random-normal", _grown("RandomNormal<shape=[1048576,1048576]>()"), says=("'z'",)),
    Attack("random-uniform", _grown("RandomUniform<shape=[1048576,1048576]>()"), says=("'z'",)),
    Attack(
        "broadcast",
        _grown("Add(c, r)", c=np.zeros((1 << 20, 1), np.int8), r=np.zeros((1, 1 << 20), np.int8)),
        says=("'z'",),
    ),
)
def test_sizes_that_follow_from_constants(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@attacks(
    Attack(
        "tile",
        _while_running("z = Tile(one_row, m)", one_row=[1.0]),
        says=("no memory left", "Tile", "--max-memory"),
    ),
    Attack("expand", _while_running("z = Expand(one_row, m)", one_row=[1.0]), says=("no memory left", "Expand")),
    Attack("constant-of-shape", _while_running("z = ConstantOfShape(m)"), says=("no memory left", "ConstantOfShape")),
    Attack("range", _while_running("z = Range(zero, k, step)", zero=0, step=1), says=("no memory left", "Range")),
    Attack(
        "pad",
        _while_running("p = Concat<axis=0>(none, m)  z = Pad(one_row, p)", one_row=[1.0], none=[0]),
        says=("no memory left", "Pad"),
    ),
    Attack("one-hot", _while_running("z = OneHot(i, m, v)", i=[0, 1], v=[0.0, 1.0]), says=("no memory left", "OneHot")),
    Attack(
        "resize",
        _while_running(
            "e = ConstantOfShape(four) q = Concat<axis=0>(e, m, m)  z = Resize(pixel, , , q)",
            four=[2],
            pixel=np.ones((1, 1, 1, 1), np.float32),
        ),
        says=(),
    ),
    Attack(
        "eye-like",
        _while_running(
            "q = Sqrt(big)  r = Cast<to=7>(q)  u = Reshape(r, rank)  t = Concat<axis=0>(u, u)  "
            "e = ConstantOfShape(t)  z = EyeLike(e)"
        ),
        says=("no memory left",),
    ),
    Attack("scatter", _while_running("e = ConstantOfShape(m)  z = CumSum(e, zero)", zero=0), says=("no memory left",)),
)
def test_sizes_that_depend_on_values(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@attacks(
    Attack("concat", _chain("Concat<axis=1>", 40), says=("may be taken",)),
    Attack(
        "concat-of-shapes",
        _model(
            "(float[n,4] x) => (float[n,4] y, z) { y = MatMul(x, w)  h0 = Shape(x) "
            + " ".join(f"h{i + 1} = Concat<axis=0>(h{i}, h{i})" for i in range(40))
            + " z = ConstantOfShape(h40) }",
            normal(w=(4, 4)),
        ),
        says=("may be taken",),
    ),
    Attack(
        "many-of-some-size",
        _model(
            "(float[n,4] x) => (float[n,4] y, z) { y = MatMul(x, w)  h0 = ConstantOfShape(s) "
            + " ".join(f"h{i + 1} = Neg(h{i})" for i in range(40))
            + " z = Neg(h40) }",
            {**normal(w=(4, 4)), "s": [2_000_000]},
            "--max-memory",
            LIMIT,
        ),
        says=("what is computed for x:[2, 4]", "336 MB"),
    ),
    Attack("functions", _functions(40), says=("83 nodes", "call functions", "1.1e+12")),
    Attack("functions-in-a-circle", _functions(3, circle=True), says=("circle", "f3")),
    Attack("loop", _loop("", m=1 << 62), says=("4611686018427387904 trips",)),
    Attack(
        "loop-in-which-memory-grows", _loop("", "t = Concat<axis=1>(s, s)", m=1000), says=("no memory left", "Loop")
    ),
)
def test_what_grows_from_step_to_step(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


_ENDLESS = _loop("a = Abs(h) s = ReduceMax<keepdims=0>(a) one = Div(s, s) n = Mul(one, f) m = Cast<to=7>(n)", f=1e18)


def _evaluated(folder: Path) -> list[str]:
    _ENDLESS(folder)
    np.savez(folder / "x.npz", x=np.ones((2, 4), np.float32))
    np.save(folder / "y.npy", np.zeros(2, np.int64))
    return ["eval", "a.onnx", "--data", "x.npz", "--labels", "y.npy"]


@attacks(
    Attack("inspected", _ENDLESS, says=("a.onnx: a loop is still running after",)),
    Attack("evaluated", _evaluated, says=("a.onnx: a loop is still running after",)),
)
def test_loops_without_an_end(attack: Attack, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "PATIENCE", 0.3)
    attack.check(tmp_path, cli)


@attacks(
    Attack("chain", _chain("Concat<axis=1>", 40), says=("may be taken",), apart=True),
    Attack(
        "loop-without-a-limit",
        _loop("", "t = Concat<axis=1>(s, s)", limit="", m=60),
        says=("no memory left", "Loop", "--max-memory"),
        apart=True,
    ),
)
def test_by_a_process_of_its_own_that_takes_little_meanwhile(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _with_data(command: str) -> Build:
    """Two models that a chain makes too large, and data for them: what is measured first must be refused too."""

    def write(folder: Path) -> list[str]:
        _chain("Concat<axis=1>", 40)(folder)
        np.savez(folder / "x.npz", x=np.ones((40, 4), np.float32))
        np.save(folder / "y.npy", np.zeros(40, np.int64))
        return command.split()

    return write


@attacks(
    Attack("run", _with_data("run a.onnx a.onnx -o m.onnx --method average"), says=("may be taken",)),
    Attack("calibrated", _with_data("run a.onnx a.onnx -o m.onnx --calib x.npz"), says=("may be taken",)),
    Attack("permute", _with_data("permute a.onnx -o m.onnx"), says=("may be taken",)),
    Attack("eval", _with_data("eval a.onnx --data x.npz --labels y.npy"), says=("may be taken",)),
)
def test_every_command_refuses(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _declared(shape: str, *more: str) -> Build:
    return _model(f"(float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}", None, *more)


@attacks(
    Attack("declared", _declared("1,3,1000000,1000000"), says=("input 'x' of shape [1, 3, 1000000, 1000000]", "12 TB")),
    Attack(
        "declared-a-little", _declared("1,100000000", "--max-memory", LIMIT), says=("input 'x'", "400 MB", "200 MB may")
    ),
    Attack("asked-for", _declared("n,m", "--input", "x:1000000,1000000"), says=("input 'x'", "4 TB")),
    Attack("overflowing", _declared("4294967296,4294967296"), says=("input 'x'", "7e19 bytes")),
)
def test_inputs_that_are_declared_huge(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
