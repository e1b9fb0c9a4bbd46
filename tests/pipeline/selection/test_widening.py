"""``--width auto``: the smallest network that is near enough to the ensemble, said, and repeated by what is said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import MergeOptions, UsageError, merge, permute
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.recipes.file import read_recipe
from tests.command_line import Cli
from tests.graphs import build, initializers, normal
from tests.heads.networks import attention, data

HALF, CLASSES, HIDDEN = 5, 4, 8
GRAPH = f"""(float[n,{2 * HALF}] x) => (float[n,{CLASSES}] y) {{
    h = Gemm(x, w1, b1) r = Relu(h) g = Gemm(r, w2, b2) s = Relu(g) y = Gemm(s, w3, b3)
}}"""
FLAGS = ("--method", "zipit", "--answer", "ensemble", "--outputs", "logits", "--repair", "none")
PLAIN: dict[str, Any] = {"method": "zipit", "repair": "none", "width": "auto"}
TOGETHER = {**PLAIN, "answer": "ensemble", "outputs": "logits"}
APART = {**PLAIN, "heads": "separate"}


def samples(count: int = 240, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 2 * HALF)).astype(np.float32)


def seeing(half: int, seed: int) -> onnx.ModelProto:
    """A network that reads one half of its inputs alone."""
    shapes = {"w1": (2 * HALF, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, HIDDEN), "b2": (HIDDEN,)}
    weights = normal(**shapes, w3=(HIDDEN, CLASSES), b3=(CLASSES,), seed=seed, scale=0.7)
    weights["w1"][HALF:] *= half
    weights["w1"][:HALF] *= 1 - half
    return build(GRAPH, weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(2):
        onnx.save(seeing(index, index), tmp_path / f"{index}.onnx")
    permute(seeing(0, 0), seed=1).save(tmp_path / "copy.onnx")
    np.save(tmp_path / "x.npy", samples())
    return tmp_path


def two(folder: Path, second: str = "1.onnx") -> list[Path]:
    return [folder / "0.onnx", folder / second]


def widening(models: Any, data: Any = None, **given: Any) -> WidthsReport:
    found = merge(models, calibration=samples() if data is None else data, **given).report.widening
    assert found is not None
    return found


def said(lines: Iterable[str], title: str) -> list[str]:
    return [line.removeprefix(title).strip() for line in lines if line.startswith(f"{title} ")]


@pytest.mark.parametrize("given", [TOGETHER, APART, {"width": "auto", "outputs": "logits"}])
def test_two_copies_are_one_network(given: dict[str, Any], folder: Path) -> None:
    result = merge(two(folder, "copy.onnx"), calibration=folder / "x.npy", **given)
    found = result.report.widening
    assert found is not None
    assert found.widths == "1"
    assert [group.width for group in result.report.groups] == [HIDDEN] * 2
    assert result.report.width == 1.0


def test_networks_that_have_nothing_in_common_stay_side_by_side(folder: Path) -> None:
    result = merge(two(folder), calibration=folder / "x.npy", **APART)
    found = result.report.widening
    assert found is not None
    assert found.widths == "2"
    assert [group.width for group in result.report.groups] == [2 * HIDDEN] * 2
    assert found.candidates[-1].agreement == pytest.approx(1.0)
    assert found.ensemble is None
    assert found.least == pytest.approx(0.99)
    agreed = [each.agreement for each in found.candidates]
    assert agreed == sorted(agreed)


def test_networks_that_share_half_of_their_units_become_half_as_wide_again() -> None:
    graph = "(float[n,10] x) => (float[n,4] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
    one, other = (normal(w1=(10, 8), b1=(8,), w2=(8, 4), b2=(4,), seed=seed) for seed in range(2))
    other["w1"][:, :4], other["b1"][:4] = one["w1"][:, 4:], one["b1"][4:]
    given = {**PLAIN, "outputs": "regression", "zip_a": 1.0, "within": 0.01}
    result = merge([build(graph, one), build(graph, other)], calibration=samples(), **given)
    assert [group.width for group in result.report.groups] == [12]
    found = result.report.widening
    assert found is not None
    assert found.candidates[found.chosen].agreement == pytest.approx(found.candidates[-1].agreement, abs=1e-6)


def test_what_is_chosen_is_the_smallest_that_is_near_enough(folder: Path) -> None:
    found = widening(two(folder), **TOGETHER)
    assert found.ensemble is not None
    assert found.least == pytest.approx(found.ensemble - 0.01)
    sizes = [each.parameters for each in found.candidates]
    assert sizes == sorted(set(sizes))
    enough = [index for index, each in enumerate(found.candidates) if each.agreement >= found.least]
    assert 0 < found.chosen == enough[0]
    assert len(found.candidates) <= 5


@pytest.mark.slow
def test_the_more_points_the_smaller(folder: Path) -> None:
    sizes = []
    for within in (0.0, 1.0, 2.0, 100.0):
        found = widening(two(folder), **TOGETHER, within=within)
        sizes.append(found.candidates[found.chosen].parameters)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


@pytest.mark.slow
def test_sizes_are_those_of_the_networks(folder: Path) -> None:
    """What a candidate is said to cost is what the network that is merged so costs."""
    found = widening(two(folder), **TOGETHER)
    for each in found.candidates:
        width = each.widths if "=" in each.widths else float(each.widths)
        costs = merge(two(folder), calibration=folder / "x.npy", **{**TOGETHER, "width": width}).report.footprints[-1]
        assert (costs.parameters, costs.flops) == (each.parameters, each.flops)


def test_what_is_to_be_small_decides_the_order() -> None:
    """A group that is read at many places costs arithmetic, one that is read by a wide layer parameters."""
    graph = """(float[n,3,8,8] x) => (float[n,4] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) p = Relu(a) c = Conv<pads=[1,1,1,1]>(p, w2, b2) q = Relu(c)
        g = GlobalAveragePool(q) f = Flatten(g) h = Gemm<transB=1>(f, w3, b3) r = Relu(h) y = Gemm<transB=1>(r, w4, b4)
    }"""
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (64, 6), "b3": (64,)}
    models = [build(graph, normal(**shapes, w4=(4, 64), b4=(4,), seed=seed, scale=0.7)) for seed in range(2)]
    found = [
        widening(models, data(models[0], 300), **APART, within=0.0, smallest_in=size)
        for size in ("parameters", "flops")
    ]
    tried = [{each.widths for each in one.candidates} for one in found]
    assert tried[0] != tried[1]
    for one in found:
        sizes = [getattr(each, one.smallest_in) for each in one.candidates]
        assert sizes == sorted(sizes)


def test_groups_that_cannot_be_widened_are_named() -> None:
    models = [attention(0), attention(1)]
    result = merge(models, calibration=data(models[0], 300), **TOGETHER)
    found = result.report.widening
    assert found is not None
    assert (found.widths, found.groups) == ("1", ())
    assert set(found.kept) == {group.id for group in result.report.groups}
    assert any(note.startswith("no group of these models can have another width") for note in found.notes)


def test_a_pinned_group_keeps_its_width(folder: Path) -> None:
    result = merge(two(folder), calibration=folder / "x.npy", **APART, groups=(GroupRule("w1", pin=True),))
    found = result.report.widening
    assert found is not None
    assert (found.groups, found.kept) == (("p1",), ("p0",))
    assert result.weights["w1"].shape == (2 * HALF, HIDDEN)
    assert any(note.startswith("keep their width: p0") for note in found.notes)


def test_where_no_width_comes_near_the_ensemble_that_is_said(folder: Path) -> None:
    """The mean of logits, some ten times as large, is not what probabilities averaged are, at whatever width."""
    loud = {name: 10 * array if name in ("w3", "b3") else array for name, array in initializers(seeing(1, 1)).items()}
    found = widening([folder / "0.onnx", build(GRAPH, loud)], **{**TOGETHER, "answer": "mean"}, within=0.0)
    assert not found.reached
    assert found.candidates[-1].agreement < (found.ensemble or 0)
    assert found.least == max(found.candidates[0].agreement, found.candidates[-1].agreement)
    assert any("no width comes within 0 points of the ensemble" in note for note in found.notes)


def test_labels_decide_where_there_are_any(folder: Path) -> None:
    labels = np.random.default_rng(1).integers(0, CLASSES, 240)
    found = widening(two(folder), **TOGETHER, labels=labels)
    assert (found.criterion, found.ensemble) == ("accuracy", None)
    assert all(each.accuracy == each.score for each in found.candidates)
    assert found.candidates[found.chosen].score >= found.least


def test_weights_are_found_first(folder: Path) -> None:
    result = merge(two(folder), calibration=folder / "x.npy", **TOGETHER, weights="auto")
    assert result.report.weighing is not None
    assert result.report.widening is not None


@pytest.mark.parametrize(
    "given",
    [
        ("--width", "auto", *FLAGS),
        pytest.param(("--width=auto", "--within", "2", "--outputs", "logits"), marks=pytest.mark.slow),
        pytest.param(
            ("--width", "auto", "--within=0.1", "--smallest-in", "flops", "--method", "weight-zip", "--repair=none"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_it_says_repeats_it(given: tuple[str, ...], folder: Path, cli: Cli) -> None:
    """The command that is printed has numbers, tries nothing, and gives the same bytes; so does the file's recipe."""
    asked = ("run", *given, "0.onnx", "1.onnx", "--calib", "x.npy", "-o", "m.onnx")
    done = cli(*asked, "--json", "m.json", "--report", "m.html", "--card", "README.md")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "m.json").read_text())
    widening = found["widening"]
    chosen = widening["candidates"][widening["chosen"]]
    assert found["footprints"][-1]["parameters"] == chosen["parameters"]
    assert "--width auto: judged by" in done.stdout
    assert f"{chosen['parameters']:,}" in done.stdout
    assert "<section id=widths" in (folder / "m.html").read_text()
    assert "## Widths that were tried" in (folder / "README.md").read_text()
    (command,) = said(done.stdout.splitlines(), "the same again")
    assert f"--width {chosen['widths']}" in command
    assert not {"auto", "--within", "--smallest-in"} & {*shlex.split(command)}
    first = (folder / "m.onnx").read_bytes()
    again = cli(*shlex.split(command)[1:])
    assert again.returncode == 0, again.stderr
    assert "--width auto" not in again.stdout
    assert (folder / "m.onnx").read_bytes() == first
    held = cli("check", "m.onnx", "--against", "0.onnx", "--against", "1.onnx", "--calib", "x.npy", "--reproduce")
    assert held.returncode == 0, held.stdout + held.stderr
    recipe = json.loads({each.key: each.value for each in onnx.load("m.onnx").metadata_props}["onnxmerge.recipe"])
    assert (recipe["width"], recipe["within"]) == (found["width"], 1)


def test_a_recipe_has_it(folder: Path, cli: Cli) -> None:
    asked = ("run", "0.onnx", "1.onnx", "--calib", "x.npy", *FLAGS, "--width", "auto", "--within", "2")
    assert cli(*asked, "-o", "m.onnx", "--save-recipe", "r.yaml", "--work-dir", "kept").returncode == 0
    options = read_recipe(folder / "r.yaml").options
    assert (options.width, options.within) == ("auto", 2.0)
    first = (folder / "m.onnx").read_bytes()
    done = cli("run", "r.yaml", "--work-dir", "kept", "--resume")
    assert done.returncode == 0, done.stderr
    assert (folder / "m.onnx").read_bytes() == first
    planned = cli("run", "r.yaml", "--dry-run")
    assert said(planned.stdout.splitlines(), "widths") == [
        "to be found, within 2 points of the ensemble on held-out data"
    ]


@pytest.mark.usefixtures("folder")
def test_widths_of_single_groups(cli: Cli) -> None:
    done = cli("run", "0.onnx", "1.onnx", "--calib", "x.npy", *FLAGS, "--width", "p1=1.5,w1=2", "-o", "m.onnx")
    assert done.returncode == 0, done.stderr
    shapes = {name: array.shape for name, array in initializers(onnx.load("m.onnx")).items()}
    assert (shapes["w1"], shapes["w2"]) == ((2 * HALF, 2 * HIDDEN), (2 * HIDDEN, 3 * HIDDEN // 2))
    assert "times that of a parent, of single groups: p1=1.5,w1=2" in done.stdout


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--width", "auto", "--method", "rebasin"), "--width auto is for methods zipit, weight-zip, mudsc-zip"),
        (("--width", "auto", "--method", "auto"), "method auto does not use it"),
        (("--width", "auto", "--method", "mudsc-zip", "--alpha", "auto"), "--width auto finds the widths of one way"),
        (("--width", "auto", "--share", "0.5"), "--width auto is for methods"),
        (("--within", "2"), "--within is for --width auto; a merge of given widths does not use it; leave it out"),
        (("--width", "1.5", "--within", "1"), "--within is for --width auto"),
        (("--width", "1.5", "--smallest-in", "flops"), "--smallest-in is for --width auto"),
        (("--width", "auto", "--samples", "100"), "--width auto judges by held-out samples: give 200 samples or more"),
        (("--width", "wide"), "'wide': expected a number above 0 or GROUP=NUMBER,... such as p0=1.5,p2=2 or auto"),
        (("--width", "p0=,p1=2"), "expected a number above 0 or GROUP=NUMBER"),
        (("--width", "p9=2"), "--width p9=2: no group has that name"),
        (("--width", "p0=2.5"), "--width p0=2.5: expected a number above 0, at most the number of models, 2"),
    ],
)
def test_contradictions_are_usage_errors(given: tuple[str, ...], told: str, folder: Path, cli: Cli) -> None:
    done = cli("run", "0.onnx", "1.onnx", "--calib", "x.npy", "-o", "m.onnx", *given)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (folder / "m.onnx").exists()


@pytest.mark.usefixtures("folder")
def test_without_data_nothing_can_be_found(cli: Cli) -> None:
    done = cli("run", "0.onnx", "1.onnx", "-o", "m.onnx", "--width", "auto", "--method", "weight-zip")
    assert done.returncode == 2
    assert "--width auto compares what the models answer: give calibration data (--calib)" in done.stderr


@pytest.mark.parametrize("width", ["", "1.5", "p0", "p0=x", "=2", "p0=2,,"])
def test_words_that_are_no_widths(width: str) -> None:
    with pytest.raises(UsageError, match="--width: expected a number, auto, or GROUP=NUMBER"):
        MergeOptions(method="zipit", width=width).settled()
