"""Names that would steer the terminal, and a terminal that does not take what is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.attacks.attack import CHECKOUT, Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal

STEERING = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "return": "good\rbad",
    "lines": "one\ntwo",
    "backwards": "\u202egnp.exe",
    "nothing to see": "a\u200bb\ufeff",
    "C1": "\x9b31m",
    "markup": "[red]a[/red][link=http://x]b[/link]",
    "broken markup": "[/]",
    "emoji": ":skull:",
}


def model(folder: Path, name: str, seed: int = 0) -> onnx.ModelProto:
    """A network with the name on a weight, a node, and its hidden tensor."""
    made = build(
        "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }",
        normal(w1=(6, 5), w2=(5, 3), seed=seed),
    )
    made.graph.initializer[0].name = made.graph.node[0].input[1] = f"w{name}"
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = f"h{name}"
    made.graph.node[0].name = f"n{name}"
    onnx.save(made, folder / f"{seed}.onnx")
    return made


def foreign(folder: Path, name: str) -> None:
    made = model(folder, name)
    made.graph.node[1].op_type, made.graph.node[1].domain = f"Op{name}", f"my{name}"
    made.opset_import.add(domain=f"my{name}", version=1)
    onnx.save(made, folder / "0.onnx")


def unsaid(folder: Path, name: str) -> None:
    made = model(folder, name)
    made.graph.node[1].input[0] = f"absent{name}"
    onnx.save(made, folder / "0.onnx")


@pytest.mark.parametrize("name", STEERING.values(), ids=STEERING)
def test_names_in_models_do_not_steer(name: str, tmp_path: Path, cli: Cli) -> None:
    def inspect(folder: Path) -> list[str]:
        model(folder, name)
        return ["inspect", "0.onnx", "--all"]

    def explain(folder: Path) -> list[str]:
        model(folder, name)
        return ["inspect", "0.onnx", "--explain", f"h{name}", "--graph", "g.graphml"]

    def absent(folder: Path) -> list[str]:
        unsaid(folder, name)
        return ["inspect", "0.onnx"]

    def unknown(folder: Path) -> list[str]:
        foreign(folder, name)
        return ["inspect", "0.onnx"]

    said = Attack("inspect", inspect, exit_code=0).check(tmp_path, cli).stdout
    if name.isprintable():
        assert f"w{name}" in re.sub(r"\s*\n\s*", "", said)
    assert Attack("explain", explain, exit_code=0, writes=("g.graphml",)).check(tmp_path, cli)
    Attack("absent", absent).check(tmp_path, cli)
    Attack("unknown", unknown).check(tmp_path, cli)
    model(tmp_path, name)
    found = json.loads(cli("inspect", "0.onnx", "--json").stdout)
    assert f"w{name}" in {place["name"] for group in found["groups"] for place in group["initializers"]}


def _missing_model(_folder: Path) -> list[str]:
    return ["inspect", "\x1b[31m\u202e.onnx"]


def _missing_bytes(_folder: Path) -> list[str]:
    return ["inspect", "a\udcff.onnx"]


def _method(_folder: Path) -> list[str]:
    return ["run", "a", "b", "--method", "\x1b[31m"]


def _command(_folder: Path) -> list[str]:
    return ["\x1b[31m\n\u202e"]


def _option(_folder: Path) -> list[str]:
    return ["inspect", "--\x1b[31m"]


def _input(folder: Path) -> list[str]:
    model(folder, "")
    return ["inspect", "0.onnx", "--input", "\x1b[31m:x"]


def _tasks(folder: Path) -> list[str]:
    model(folder, "")
    return ["eval", "0.onnx", "--data", "x.npy", "--task", "\x1b[31m"]


def _recipe_key(folder: Path) -> list[str]:
    (folder / "r.yaml").write_text('models: [a, b]\n"\\e[31m\\u202e": 1\n')
    return ["run", "r.yaml"]


@attacks(
    Attack("missing model", _missing_model, says=("\\x1b[31m\\u202e.onnx",)),
    Attack("missing model of bytes", _missing_bytes, says=("a\\xff.onnx",)),
    Attack("method", _method, exit_code=2, says=("x1b[31m",)),
    Attack("command", _command, exit_code=2, says=("No such command",)),
    Attack("option", _option, exit_code=2, says=("\\x1b[31m",)),
    Attack("input", _input, exit_code=2, says=("x1b[31m",)),
    Attack("task", _tasks, exit_code=2, says=("x1b[31m",)),
    Attack("recipe", _recipe_key, says=("x1b[31m",)),
)
def test_what_is_given_does_not_steer(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@pytest.mark.parametrize(
    ("shell", "code", "says"),
    [
        (
            "$RUN >/dev/full; echo $? >code",
            1,
            r"error: standard output cannot be written .*m\.onnx was written\n",
        ),
        ("{ $RUN; echo $? >code; } | true", 0, ""),
        ("$RUN >&-; echo $? >code", 0, ""),
    ],
    ids=["full", "closed pipe", "closed"],
)
def test_a_failing_standard_output_loses_no_model(tmp_path: Path, shell: str, code: int, says: str) -> None:
    model(tmp_path, "")
    command = f"{sys.executable} -m onnxmerge permute 0.onnx -o m.onnx"
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RUN": command}
    done = subprocess.run(["/bin/sh", "-c", shell], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert (tmp_path / "code").read_text().strip() == str(code), done.stderr
    assert re.fullmatch(says, done.stderr), done.stderr
    onnx.checker.check_model(tmp_path / "m.onnx")
