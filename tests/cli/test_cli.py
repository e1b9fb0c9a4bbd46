"""Commands as a user runs them: what they print, where, and how they exit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.cli.commands import COMMANDS
from onnxmerge.cli.main import commands
from onnxmerge.pipeline.methods import METHODS
from tests.attacks.pair import write_pair
from tests.command_line import Cli
from tests.graphs import build, normal

MAIN = "from onnxmerge.cli import main; main()"


def process(*arguments: object, folder: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=False,
        timeout=120,
    )


def one_line(text: str) -> bool:
    return text.count("\n") == 1


def test_help_lists_every_command_and_loads_none(checkout: Path, tmp_path: Path) -> None:
    told = "import sys, atexit; atexit.register(lambda: print(sorted({*sys.modules} & {'numpy', 'onnx', 'scipy'})));"
    command = [sys.executable, "-c", f"{told} {MAIN}", "--help"]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "[]"
    context = click.Context(commands)
    for name, entry in COMMANDS.items():
        assert f"  {name:11}{entry.help}\n" in found.stdout
        command_itself = commands.get_command(context, name)
        assert command_itself is not None
        assert command_itself.name == name
    assert commands.get_command(context, "absent") is None


def test_the_package_offers_what_it_lists() -> None:
    assert dir(onnxmerge) == sorted(onnxmerge.__all__)
    assert all(getattr(onnxmerge, name) is not None for name in onnxmerge.__all__)
    with pytest.raises(AttributeError, match="absent"):
        _ = onnxmerge.absent


def test_the_command_is_a_program(digits: Path, tmp_path: Path, checkout: Path) -> None:
    arguments = ["run", digits / "a.onnx", digits / "b.onnx", "--method", "average", "-o", "m.onnx"]
    done = process(*arguments, folder=tmp_path, checkout=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def small_pair(folder: Path, samples: int) -> None:
    """a.onnx and b.onnx, and data in x.npy."""
    write_pair(folder)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(samples, 6)).astype(np.float32))


@pytest.mark.smoke
def test_run_writes_a_model_and_a_summary(cli: Cli, digits: Path, tmp_path: Path) -> None:
    arguments = ["run", digits / "a.onnx", digits / "b.onnx", "--calib", digits / "calib.npz", "-o", "m.onnx"]
    done = cli(*arguments, "--effort", "fast", "--samples", 200, "--json", "r.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "mean similarity" in done.stdout
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["effort"]["effort"] == "fast"
    assert report["method"] == report["effort"]["chosen_flags"][1]
    assert "the same again   onnxmerge run --method " in done.stdout
    assert {"read", "type", "certify", "calibrate", "match", "merge"} <= set(report["seconds"])
    assert all(group["similarity_after"] > group["similarity_before"] for group in report["groups"])


def test_run_takes_many_models_with_weights(cli: Cli, tmp_path: Path) -> None:
    small_pair(tmp_path, samples=64)
    for name, other in ("ac", "bd"):
        assert cli("permute", f"{name}.onnx", "-o", f"{other}.onnx").returncode == 0
    models = [f"{name}.onnx" for name in "abcd"]
    options = ["--calib", "x.npy", "--weights", "1,2,1,1", "-o", "m.onnx"]
    done = cli("run", *models, "--method", "c2m3", *options, "--json", "r.json")
    assert done.returncode == 0, done.stderr
    assert "weights          0.2, 0.4, 0.2, 0.2" in done.stdout
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["method"], report["weights"], len(report["models"])) == ("c2m3", [0.2, 0.4, 0.2, 0.2], 4)


def test_run_adds_task_vectors_to_a_base(cli: Cli, digits: Path, tmp_path: Path) -> None:
    arguments = ["--method", "ties", "--base", digits / "a.onnx", "--density", 1, "-o", "m.onnx", "--json", "r.json"]
    done = cli("run", digits / "a.onnx", digits / "b.onnx", *arguments)
    assert done.returncode == 0, done.stderr
    assert "units are taken in the order of the base" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert any("b.onnx: is no fine-tune of" in note for note in report["notes"])
    assert report["base"][0].endswith("a.onnx")
    assert (report["scale"], report["density"], report["alpha"]) == (1.0, 1.0, None)


def test_run_lists_every_method_and_what_it_needs(cli: Cli) -> None:
    lines = cli("run", "--help").stdout.partition("Methods:")[2].splitlines()
    for name, method in METHODS.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.endswith(method.needed or method.summary)


def test_run_searches_for_alpha_and_says_what_it_tried(cli: Cli, tmp_path: Path) -> None:
    small_pair(tmp_path, samples=200)
    done = cli("run", "a.onnx", "b.onnx", "--calib", "x.npy", "--alpha", "auto", "-o", "m.onnx", "--json", "r.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    tried = report["search"]["candidates"]
    assert [candidate["alpha"] for candidate in tried] == pytest.approx(np.linspace(0, 1, 11))
    best = max(tried, key=lambda candidate: candidate["reconstruction"])
    assert (report["method"], report["alpha"]) == (best["method"], best["alpha"])
    assert tried[report["search"]["chosen"]] == best
    assert "chosen by reconstruction on 40 held-out samples" in done.stdout
    assert f"; the best of {len(report['repairs'])} on held-out samples" in done.stdout


def test_options_that_need_something_else_are_refused_in_one_line(cli: Cli, digits: Path, tmp_path: Path) -> None:
    pair = digits / "a.onnx", digits / "b.onnx"
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int64))
    for code, options in (
        (2, ("--method", "auto")),
        (2, ("--alpha", "1.5")),
        (2, ("--alpha", "auto", "--method", "rebasin", "--calib", digits / "calib.npz")),
        (1, ("--alpha", "auto", "--labels", "labels.npy", "--calib", digits / "calib.npz")),
    ):
        done = cli("run", *pair, "-o", "m.onnx", *options)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "m.onnx").exists()


def test_inspect_prints_one_json_object(cli: Cli, digits: Path) -> None:
    done = cli("inspect", digits / "a.onnx", "--certify", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"groups", "fixed", "coverage", "certificate"} <= set(found)
    assert found["certificate"]["passed"] is True
    assert found["certificate"]["values_compared"] > 0
    assert 0 < found["coverage"]["free_axes"] <= 1
    assert set(found["groups"][0]) == {"id", "size", "varies_with", "initializers"}
    assert all(axis["reason"] for axis in found["fixed"])


def test_inspect_explains_and_exports(cli: Cli, digits: Path, tmp_path: Path) -> None:
    name = onnx.load(digits / "a.onnx").graph.initializer[0].name
    done = cli("inspect", digits / "a.onnx", "--explain", name, "--graph", "units.graphml")
    assert done.returncode == 0, done.stderr
    assert "axis 0" in done.stdout
    assert (tmp_path / "units.graphml").stat().st_size > 0


@pytest.mark.parametrize(("name", "start"), [("u.svg", "<svg xmlns="), ("u.mmd", "flowchart TD\n"), ("u.dot", "graph")])
def test_inspect_draws(cli: Cli, digits: Path, tmp_path: Path, name: str, start: str) -> None:
    done = cli("inspect", digits / "a.onnx", "--graph", name, "--mermaid")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_text().startswith(start)
    assert done.stdout.startswith("flowchart TD\n")
    assert "similarity" not in done.stdout


@pytest.mark.parametrize("other", [["--json"], ["--explain", "x"]], ids=["json", "explain"])
def test_inspect_prints_one_thing_at_a_time(cli: Cli, digits: Path, other: list[str]) -> None:
    done = cli("inspect", digits / "a.onnx", "--mermaid", *other)
    assert done.returncode == 2
    assert f"--mermaid and {other[0]}" in done.stderr


def test_inspect_explains_in_json(cli: Cli, digits: Path) -> None:
    name = onnx.load(digits / "a.onnx").graph.initializer[0].name
    done = cli("inspect", digits / "a.onnx", "--json", "--explain", name)
    assert done.returncode == 0, done.stderr
    axes = json.loads(done.stdout)["explained"]
    assert [axis["axis"] for axis in axes] == list(range(len(axes)))
    assert {"space", "chain"} == set(axes[0]["spaces"][0])


def test_permute_writes_other_weights_of_the_same_function(cli: Cli, digits: Path, tmp_path: Path) -> None:
    done = cli("permute", digits / "a.onnx", "-o", "p.onnx", "--seed", 7)
    assert done.returncode == 0, done.stderr
    again = cli("permute", digits / "a.onnx", "-o", "q.onnx", "--seed", 7)
    assert again.returncode == 0
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    assert (tmp_path / "p.onnx").read_bytes() != (digits / "a.onnx").read_bytes()


BAD = [
    (["run", "a.onnx", "nothere.onnx", "-o", "m.onnx", "--method", "average"], 1, "nothere.onnx"),
    (["run", "a.onnx", "text.onnx", "-o", "m.onnx", "--method", "average"], 1, "text.onnx"),
    (["run", "a.onnx", "cut.onnx", "-o", "m.onnx", "--method", "average"], 1, "cut.onnx"),
    (["run", "a.onnx", "other.onnx", "-o", "m.onnx", "--method", "average"], 1, "other.onnx"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "zipit"], 2, "--calib"),
    (["run", "a.onnx", "-o", "m.onnx"], 2, "two models"),
    (["run", "a.onnx", "b.onnx", "-o", "a.onnx", "--method", "average"], 2, "one of the models"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--calib", "nodata"], 1, "nodata"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--calib", "wrong.npy"], 1, "wrong.npy"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--calib", "nan.npy"], 1, "nan.npy"),
    (["run", "a.onnx", "b.onnx", "-o", "no/such/folder/m.onnx", "--method", "average"], 1, "no/such/folder"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "nosuch"], 2, "nosuch"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "average", "--provider", "tensorrt"], 2, "tensorrt"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "average", "--weights", "1"], 2, "2 models"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "average", "--weights", "1,-1"], 2, "positive"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "average", "--weights", "1,x"], 2, "'1,x'"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "ties"], 2, "--base"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "ties", "--base", "other.onnx"], 1, "other.onnx"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "ties", "--base", "nothere.onnx"], 1, "nothere.onnx"),
    (["run", "a.onnx", "b.onnx", "-o", "m.onnx", "--method", "average", "--base", "a.onnx"], 2, "ties"),
    (["run", "a.onnx", "b.onnx", "-o", "c.onnx", "--method", "ties", "--base", "c.onnx"], 2, "choose another name"),
    (["inspect", "a.onnx", "--explain", "nosuchtensor"], 2, "nosuchtensor"),
    (["inspect", "a.onnx", "--input", "nosuch:1,6"], 1, "nosuch"),
    (["inspect", "a.onnx", "--input", "x"], 2, "NAME:SHAPE"),
    (["inspect", "a.onnx", "--operators", "nosuch.yaml"], 1, "nosuch.yaml"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_line_and_an_exit_code(
    cli: Cli, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    mlp = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    for index, name in enumerate("ab"):
        onnx.save(build(mlp, normal(w1=(6, 5), w2=(5, 3), seed=index)), tmp_path / f"{name}.onnx")
    onnx.save(build(mlp, normal(w1=(6, 7), w2=(7, 3))), tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("this is no model")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:-40])
    np.save(tmp_path / "wrong.npy", np.zeros((4, 5), np.float32))
    np.save(tmp_path / "nan.npy", np.full((4, 6), np.nan, np.float32))
    before = sorted(tmp_path.iterdir())
    done = cli(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or one_line(done.stderr), done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_interrupted_run_leaves_nothing_behind(checkout: Path, digits: Path, tmp_path: Path) -> None:
    script = "import time\ndef slow():\n    print('ready', flush=True)\n    time.sleep(60)\n    return []\n"
    (tmp_path / "slow.py").write_text(script)
    arguments = ["run", digits / "a.onnx", digits / "b.onnx", "--calib", "slow.py:slow", "-o", "m.onnx"]
    # A shell's background job ignores SIGINT, and hands that on to what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    process.stderr.readline()  # what a script prints goes there
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; nothing was written"
    assert not (tmp_path / "m.onnx").exists()
