"""The plain command tries whole ways to merge, takes the best, and says how to do that again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import MergeOptions, merge
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.selection.effort import WITHOUT_DATA, flags
from onnxmerge.pipeline.selection.scaling import scaled_methods
from tests.command_line import Cli
from tests.graphs import build, execute, normal

MLP = """(float[n,12] x) => (float[n,4] y) {
    a = MatMul(x, w1) b = Add(a, b1) r = Relu(b) c = MatMul(r, w2) y = Add(c, b2)
}"""


def model(seed: int) -> onnx.ModelProto:
    return build(MLP, normal(w1=(12, 16), b1=(16,), w2=(16, 4), b2=(4,), seed=seed))


def fine_tunes(folder: Path) -> tuple[str, ...]:
    """Two fine-tunes of a base, as the command line names all of them."""
    base = normal(w1=(12, 16), b1=(16,), w2=(16, 4), b2=(4,), seed=0)
    for name, moved in (("base", 0.0), ("tuned1", 0.05), ("tuned2", 0.05)):
        learnt = normal(w1=(12, 16), b1=(16,), w2=(16, 4), b2=(4,), seed=int(name[-1]) if moved else 1)
        own = {key: array + np.float32(moved) * learnt[key] for key, array in base.items()}
        onnx.save(build(MLP, own), folder / f"{name}.onnx")
    return "tuned1.onnx", "tuned2.onnx", "--base", "base.onnx"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str, str]:
    for index, name in enumerate("ab"):
        onnx.save(model(index), tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32))
    return "a.onnx", "b.onnx", "x.npy"


def test_what_it_says_repeats_it(pair: tuple[str, str, str], tmp_path: Path, cli: Cli) -> None:
    """Two ways are tried; the command that is printed tries nothing and gives the same bytes."""
    one, other, data = pair
    done = cli("run", one, other, "--calib", data, "-o", "m.onnx", "--outputs", "logits", "--json", "m.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())["effort"]
    assert (found["effort"], len(found["ways"]), found["samples"]) == ("balanced", 2, 80)
    best = max(found["ways"], key=lambda way: way["agreement"])
    assert found["chosen_flags"] == best["flags"] == found["ways"][found["chosen"]]["flags"]
    first = (tmp_path / "m.onnx").read_bytes()
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("the same again"))
    command = shlex.split(line.removeprefix("the same again"))
    assert command[:2] == ["onnxmerge", "run"]
    again = cli(*command[1:])
    assert again.returncode == 0, again.stderr
    assert "the same again" not in again.stdout
    assert (tmp_path / "m.onnx").read_bytes() == first


def test_labels_decide_where_there_are_any(pair: tuple[str, str, str], tmp_path: Path, cli: Cli) -> None:
    one, other, data = pair
    x = np.load(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", execute(model(1), {"x": x})["y"].argmax(axis=1))
    arguments = ("run", one, other, "--calib", data, "--labels", "y.npy", "-o", "m.onnx", "--json", "m.json")
    done = cli(*arguments, "--effort", "balanced")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())["effort"]
    assert found["criterion"] == "accuracy"
    assert found["ways"][found["chosen"]]["accuracy"] == max(way["accuracy"] for way in found["ways"])
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("the same again"))
    assert "--effort" not in line
    assert cli(*shlex.split(line.removeprefix("the same again"))[1:]).returncode == 0


@pytest.mark.parametrize(
    "given",
    [
        ("--labels", "y.npy"),
        ("--labels=y.npy", "--answer=mean", "--vectors", "v.npy"),
        ("--labels", "y.npy", "--task", "a=0-1", "--task", "b=2-3"),
        pytest.param(("--vectors", "v.npy", "--effort=best"), marks=pytest.mark.slow),
        ("--labels", "y.npy", "--vectors", "v.npy"),
        ("--width", "1.5"),
    ],
)
def test_it_repeats_whatever_was_given(
    given: tuple[str, ...], pair: tuple[str, str, str], tmp_path: Path, cli: Cli
) -> None:
    """What decided between ways, and decides nothing in the one that was chosen, is left out of the command."""
    one, other, data = pair
    x = np.load(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", execute(model(1), {"x": x})["y"].argmax(axis=1))
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    done = cli("run", *given, "--calib", data, "-o", "m.onnx", "--", one, other)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "m.onnx").read_bytes()
    (said,) = (each for each in done.stdout.splitlines() if each.startswith("the same again"))
    again = cli(*shlex.split(said.removeprefix("the same again"))[1:])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "m.onnx").read_bytes() == first


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--answer", "ensemble"), "--answer ensemble measures what the parents say"),
        (("--output-mean", "drop"), "--output-mean says what is measured"),
        (("--calib", "x.npy", "--regression"), "give the labels too"),
        (("--calib", "x.npy", "--effort", "fast", "--alpha", "0.5"), "leave out --alpha"),
    ],
)
def test_what_would_be_left_undone_is_refused(
    given: tuple[str, ...], says: str, pair: tuple[str, str, str], cli: Cli
) -> None:
    done = cli("run", *pair[:2], *given, "-o", "m.onnx")
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    "settings",
    [{"effort": "super"}, {"answer": "both"}, {"refine": "more"}, {"heads": None}],
)
def test_words_that_no_option_knows(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UsageError, match=f"--{name}: expected one of"):
        merge([model(0), model(1)], **settings)
    with pytest.raises(UsageError, match="put it into the options"):
        merge([model(0), model(1)], options=MergeOptions(), **settings)


def test_an_output_of_one_number_a_sample() -> None:
    """Its only axis is the batch, of whatever size each feed has."""
    text = MLP.replace("float[n,4] y", "float[n] y").replace("y = Add(c, b2)", "d = Add(c, b2) y = Squeeze(d, one)")
    models = []
    for seed in (0, 1):
        weights = normal(w1=(12, 16), b1=(16,), w2=(16, 1), b2=(1,), seed=seed)
        models.append(build(text, {**weights, "one": np.array([1])}))
    x = np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32)
    report = merge(models, calibration={"x": x}).report
    assert report.effort is not None
    assert [np.isfinite(way.agreement) for way in report.effort.ways] == [True] * 2


@pytest.mark.parametrize("settings", [{}, {"method": "zipit"}, {"method": "zipit", "refine": "ls"}])
def test_a_sample_without_an_axis_for_samples(settings: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    text = "(float[6] x) => (float[4] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }"
    for seed, name in enumerate("ab"):
        onnx.save(build(text, normal(w1=(6, 12), w2=(12, 4), seed=seed)), tmp_path / f"{name}.onnx")
    lines = ["import numpy as np", "def one():", "    for i in range(300):"]
    lines.append("        yield {'x': np.random.default_rng(i).normal(size=6).astype(np.float32)}")
    (tmp_path / "d.py").write_text("\n".join(lines))
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    done = cli("run", "a.onnx", "b.onnx", "--calib", "d.py:one", *flags, "-o", "m.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("line", ["effort: balanced", "method: auto", "labels: y.npy", ""])
def test_a_recipe_s_own_choice_gives_way(line: str, pair: tuple[str, str, str], tmp_path: Path, cli: Cli) -> None:
    """What the command line says of how to merge goes before what a recipe says, its labels included."""
    one, other, data = pair
    x = np.load(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", execute(model(1), {"x": x})["y"].argmax(axis=1))
    text = f"models: [{one}, {other}]\ncalibration: {{data: {data}}}\noutputs: logits\n{line}\n"
    (tmp_path / "r.yaml").write_text(text)
    given = ("--effort", "balanced") if line.startswith("method") else ()
    done = cli("run", *given, "-o", "m.onnx", "--", "r.yaml")
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "m.onnx").read_bytes()
    (said,) = (each for each in done.stdout.splitlines() if each.startswith("the same again"))
    again = cli(*shlex.split(said.removeprefix("the same again"))[1:])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "m.onnx").read_bytes() == first


def test_without_data_weights_are_matched_and_it_is_said(pair: tuple[str, str, str], tmp_path: Path, cli: Cli) -> None:
    one, other, _ = pair
    done = cli("run", one, other, "-o", "m.onnx", "--json", "m.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    assert (found["method"], found["effort"]["notes"]) == ("rebasin", [WITHOUT_DATA])
    assert "with --calib DATA" in " ".join(done.stdout.split())


@pytest.mark.parametrize(("effort", "least"), [("fast", 0), ("balanced", 2), ("best", 8)])
def test_a_base_makes_the_default_add_up_what_was_learnt(
    effort: str, least: int, pair: tuple[str, str, str], tmp_path: Path, cli: Cli
) -> None:
    _, _, data = pair
    models = fine_tunes(tmp_path)
    options = ("--calib", data, "--effort", effort, "-o", "m.onnx", "--json", "m.json")
    done = cli("run", *models, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    assert len(found["effort"]["ways"]) >= least
    assert found["method"] in TASK_VECTORS
    if least:
        assert found["effort"]["criterion"] == "agreement on what each model learnt"
        agreed = [way["agreement"] for way in found["effort"]["ways"]]
        assert agreed[found["effort"]["chosen"]] == max(agreed) >= agreed[0]
    first = (tmp_path / "m.onnx").read_bytes()
    (said,) = (each for each in done.stdout.splitlines() if each.startswith("the same again"))
    again = cli(*shlex.split(said.removeprefix("the same again"))[1:])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "m.onnx").read_bytes() == first


@pytest.mark.parametrize("given", [(), pytest.param(("--refine", "featcal", "--pull", "0.5"), marks=pytest.mark.slow)])
def test_auto_with_a_base_tries_every_method_for_one(
    given: tuple[str, ...], pair: tuple[str, str, str], tmp_path: Path, cli: Cli
) -> None:
    """It tries what the greatest effort does, however few samples there are; what it says repeats it."""
    _, _, data = pair
    np.save(tmp_path / data, np.load(tmp_path / data)[:60])
    command = ("run", *fine_tunes(tmp_path), "--method", "auto", *given, "--calib", data)
    planned = cli(*command, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    done = cli(*command, "-o", "m.onnx", "--json", "m.json", "--card", "c.md")
    assert done.returncode == 0, done.stderr
    told = "--method auto: chosen by agreement on what each model learnt on 12 held-out samples"
    assert told in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "m.json").read_text())
    ways = found["effort"]["ways"]
    assert f"to be tried      {len(ways)} ways to merge" in planned.stdout
    tried = [way["flags"][1] for way in ways]
    assert tried == ["tsv-m", "tsv-m", *(name for name in scaled_methods(2) if name != "tsv-m")]
    assert all("--scale auto --depth auto" in " ".join(way["flags"]) for way in ways[1:])
    assert all(set(given) <= {*way["flags"]} for way in ways)
    agreed = [way["agreement"] for way in ways]
    chosen = found["effort"]["chosen"]
    assert (found["effort"]["effort"], agreed[chosen]) == (None, max(agreed))
    assert (found["method"], Path(found["base"][0]).name) == (tried[chosen], "base.onnx")
    assert found["method"] in (tmp_path / "c.md").read_text()
    first = (tmp_path / "m.onnx").read_bytes()
    (said,) = (each for each in done.stdout.splitlines() if each.startswith("the same again"))
    assert "--method auto" not in said
    assert said.count("--pull") == given.count("--pull")
    again = cli(*shlex.split(said.removeprefix("the same again"))[1:])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "m.onnx").read_bytes() == first


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"calibration": None}, "give calibration data (--calib), or leave --method out (tsv-m)"),
        ({"alpha": 0.3}, "mudsc-zip, c2m3; --method auto with --base tries methods for models of one pretraining"),
        ({"scale": 0.3}, "method auto does not use it; leave it out"),
        ({"sensitivity": 0.5}, "--sensitivity is for --refine ls; choose one (--refine)"),
        ({"labels": np.zeros(60, np.int64)}, "--labels decide nothing where what models learnt is added up"),
        ({"repair": "bias"}, "--repair bias would undo the scale"),
        ({"refine": "ls"}, "--refine ls starts from a matched average"),
        ({"rotate": True}, "--rotate is for methods that match units"),
        ({"weights": "auto"}, "--weights auto is for matched averages"),
        ({"calibration": {"x": np.ones((1, 12), np.float32)}}, "there are fewer than five; give more data"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_auto_with_a_base_is_refused_in_a_line(settings: dict[str, Any], says: str) -> None:
    given = {"calibration": {"x": np.ones((60, 12), np.float32)}, **settings}
    with pytest.raises((UsageError, InputError)) as refused:
        merge([model(0), model(1)], base=model(2), method="auto", **given)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_with_a_base_and_no_float_output_the_plain_way_is_taken() -> None:
    """Who asked for a search is told that there is nothing to judge by."""
    graph = """(float[n,12] x) => (int64[n] y) {
        h = Gemm(x, w1, b1) r = Relu(h) l = Gemm(r, w2, b2) y = ArgMax<axis=1, keepdims=0>(l)
    }"""
    base, *moved = (normal(w1=(12, 16), b1=(16,), w2=(16, 4), b2=(4,), seed=seed) for seed in range(3))
    tuned = [{name: base[name] + np.float32(0.1) * own[name] for name in base} for own in moved]
    x = np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32)
    models = [build(graph, own) for own in tuned]
    found = merge(models, base=build(graph, base), calibration={"x": x}).report.effort
    assert found is not None
    assert found.chosen_flags == ("--method", "tsv-m", "--answer", "mean")
    assert "only --method tsv-m --answer mean was tried: the network has no float output" in found.notes[0]
    with pytest.raises(InputError, match="no float output, in which a scale is found; give a method and a number"):
        merge(models, base=build(graph, base), calibration={"x": x}, method="auto")


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_more_effort_tries_more(effort: str) -> None:
    x = np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32)
    found = merge([model(0), model(1)], calibration={"x": x}, effort=effort, outputs="logits").report.effort
    assert found is not None
    if effort == "fast":
        assert (found.ways, found.chosen_flags) == ((), ("--method", "mudsc-align", "--answer", "ensemble"))
    else:
        assert len(found.ways) > 20
        tried = [way.flags for way in found.ways]
        assert len(set(tried)) == len(tried)
        assert flags(MergeOptions(method="zipit", refine="ls", answer="ensemble")) in tried


@pytest.mark.parametrize(("noise", "tried"), [(0.3, True), (6.0, False)])
def test_an_average_is_tried_where_units_stand_in_one_order(noise: float, *, tried: bool) -> None:
    base, drawn = (normal(w1=(12, 16), b1=(16,), w2=(16, 4), b2=(4,), seed=seed) for seed in (0, 1))
    other = build(MLP, {name: array + np.float32(noise) * drawn[name] for name, array in base.items()})
    x = np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32)
    found = merge([model(0), other], calibration={"x": x}, outputs="logits").report.effort
    assert found is not None
    assert any("average" in way.flags for way in found.ways) == tried
    assert any("was not tried: the models' units seem to stand" in note for note in found.notes) != tried


def test_two_equal_parents_give_themselves() -> None:
    x = np.random.default_rng(2).normal(size=(400, 12)).astype(np.float32)
    for meaning in ("logits", "embedding"):
        result = merge([model(0), model(0)], calibration={"x": x}, outputs=meaning)
        weights = {each.name: onnx.numpy_helper.to_array(each) for each in model(0).graph.initializer}
        for name, array in weights.items():
            np.testing.assert_allclose(result.weights[name], array, rtol=1e-4, atol=1e-5)
