"""``onnxmerge eval`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import Cli
from tests.graphs import build, normal


@pytest.mark.smoke
def test_parents_ensemble_and_model_side_by_side(cli: Cli, digits: Path) -> None:
    test = digits / "test.npz"
    parents = f"{digits / 'a.onnx'},{digits / 'b.onnx'}"
    tasks = digits / "task.json"
    code, out, err = cli(
        "eval", digits / "a.onnx", "--data", test, "--labels", test, "--tasks", tasks, "--parents", parents
    )
    assert (code, err) == (0, "")
    rows = [line.split("  ") for line in out.splitlines()]
    assert rows[0][0] == "evaluation: accuracy on 539 samples, % (± 95% interval)"
    assert [row[0].strip() for row in rows[2:7]] == [
        f"{digits / 'a.onnx'} (trained on 0-4)",
        "b.onnx (trained on 5-9)",
        "ensemble of the parents",
        "ensemble as --answer forms it",
        str(digits / "a.onnx"),
    ]
    parent, _, _, _, model = ([cell.strip() for cell in row[1:] if cell.strip()] for row in rows[2:7])
    assert parent == model == ["100.0 ±1.4", "15.6 ±4.8", "57.8 ±2.4", "50.1 ±4.2", "45.7"]


def test_json_to_a_file_beside_the_table(cli: Cli, digits: Path, tmp_path: Path) -> None:
    test, file = digits / "test.npz", tmp_path / "scores.json"
    code, out, _ = cli(
        "eval", digits / "a.onnx", "--data", test, "--labels", test, "--tasks", digits / "task.json", "--json", file
    )
    assert code == 0
    assert "joint" in out
    found = json.loads(file.read_text())
    (model,) = found["models"]
    assert (model["role"], model["tasks"]["0-4"]["accuracy"]["top1"]) == ("model", 1.0)
    scores = {f"{score}{part}" for score in ("average", "joint") for part in ("", "_interval", "_calibration_error")}
    assert set(model) == {"name", "role", "learned", "tasks", "scaled_average"} | scores
    low, high = model["joint_interval"]["top1"]
    assert low < model["joint"]["top1"] < high
    assert model["tasks"]["0-4"]["output"] == {"meaning": "embedding", "why": "it is compared with class vectors"}


def test_json_on_standard_output_is_all_there_is(cli: Cli, tmp_path: Path) -> None:
    onnx.save(linear(seed=0), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "y.txt").write_text("0\n1\n1\n")
    code, out, _ = cli(
        "eval",
        tmp_path / "m.onnx",
        "--data",
        tmp_path / "x.npy",
        "--labels",
        tmp_path / "y.txt",
        "--top-k",
        "2,1",
        "--json",
        "-",
    )
    assert code == 0
    found = json.loads(out)
    assert found["models"][0]["tasks"]["classes"]["accuracy"]["top2"] == 1
    assert found["tasks"] == [{"name": "classes", "kind": "classification", "output": None}]


def linear(seed: int) -> onnx.ModelProto:
    return build("(float[n,3] x) => (float[n,2] y) { y = MatMul(x, w) }", normal(w=(3, 2), seed=seed))


def test_regression_and_scaled_scores(cli: Cli, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for seed, name in enumerate("abm"):
        onnx.save(linear(seed), tmp_path / f"{name}.onnx")
    targets = rows @ normal(w=(3, 2), seed=0)["w"]
    lines = ["speed,steer", *(f"{speed},{steer}" for speed, steer in targets)]
    (tmp_path / "y.csv").write_text("\n".join(lines))
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: drive, regression: true, target: [speed, steer]}]")
    code, out, err = cli(
        "eval", tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.csv",
        "--tasks", tmp_path / "tasks.yaml", "--parents", tmp_path / "a.onnx", "--parents", tmp_path / "b.onnx",
        "--baseline", "average",
    )  # fmt: skip
    assert (code, err) == (0, "")
    table = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    assert table[1] == ["model", "task, column", "mean absolute", "mean squared", "scaled score"]
    assert [row[0] for row in table[2::2]] == ["a.onnx", "b.onnx", "ensemble of the parents", "plain average", "m.onnx"]
    assert table[3][0] == "drive, 1"


def test_one_regression_by_a_flag(cli: Cli, tmp_path: Path) -> None:
    onnx.save(linear(seed=0), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    np.save(tmp_path / "y.npy", normal(w=(3, 2))["w"] + 0.5)
    arguments = [tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--regression"]
    _, out, _ = cli("eval", *arguments, "--json", "-")
    values = json.loads(out)["models"][0]["tasks"]["values"]
    assert values["mean_absolute_error"] == pytest.approx([0.5, 0.5], rel=1e-5)
    assert values["scaled"] is None


BAD = [
    (["m.onnx", "--labels", "y.npy"], 2, "--data"),
    (["m.onnx", "--data", "x.npy"], 2, "give the labels (--labels)"),
    (["--data", "x.npy", "--labels", "y.npy"], 2, "no model to evaluate"),
    (["m.onnx", "--data", "nosuch.npy", "--labels", "y.npy"], 1, "nosuch.npy"),
    (["m.onnx", "--data", "x.npy", "--labels", "nosuch.csv"], 1, "nosuch.csv"),
    (["m.onnx", "--data", "x.npy", "--labels", "long.npy"], 1, "there are 3 samples and 4 labels"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--task", "low"], 2, "expected NAME=LABELS"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--task", "low=0-1@z"], 0, ""),
    (
        ["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--task", "a=0@p", "--task", "b=1@q"],
        1,
        "m.onnx: has outputs y",
    ),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--task", "a=0", "--regression"], 2, "not from several"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--tasks", "nosuch.json"], 1, "nosuch.json"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--vectors", "nosuch.npy"], 1, "nosuch.npy"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--outputs", "scores"], 2, "'scores' is none of logits"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--outputs", "probabilities"], 1, "m.onnx, output 'y': has"),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--outputs", "y=logits"], 0, ""),
    (["m.onnx", "--data", "x.npy", "--labels", "y.npy", "--top-k", "0"], 2, "such as 1,5"),
    (["nosuch.onnx", "--data", "x.npy", "--labels", "y.npy"], 1, "nosuch.onnx"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_line_and_an_exit_code(cli: Cli, arguments: list[str], code: int, says: str) -> None:
    onnx.save(linear(seed=0), "m.onnx")
    np.save("x.npy", np.eye(3, dtype=np.float32))
    np.save("y.npy", np.array([0, 1, 1]))
    np.save("long.npy", np.array([0, 1, 1, 0]))
    found, _, error = cli("eval", *arguments)
    assert found == code, error
    assert says in error
    assert code != 1 or error.count("\n") == 1
