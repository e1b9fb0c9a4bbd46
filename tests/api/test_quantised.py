"""Merges of quantised models: in floats, and quantised again as the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

from onnxmerge import landscape, merge
from onnxmerge.errors import InputError, UsageError
from tests.command_line import Cli
from tests.graphs import build, initializers, normal
from tests.quantised import FORMATS, IMAGES, convolutions, quantised

DATA = {"images": IMAGES}
WAYS = ["QDQ", "QDQ asymmetric", "QOperator by channel", "QOperator of products", "dynamic", "four bits asymmetric"]


def operators(model: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)


def alike(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    ours, theirs = initializers(one), initializers(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("calibrated", [True, False], ids=["data", "no data"])
@pytest.mark.parametrize("name", WAYS)
def test_a_model_merged_with_itself_is_itself(name: str, calibrated: bool, tmp_path: Path) -> None:  # noqa: FBT001
    parent = quantised(name, tmp_path / "a.onnx")
    result = merge([parent, parent], calibration=DATA if calibrated else None, method="rebasin", repair="none")
    found, own = onnx.load(result.save(tmp_path / "m.onnx")), onnx.load(parent)
    assert operators(found) == operators(own)
    assert alike(found, own)
    report = result.report.quantised
    assert report is not None
    assert report.change is None or report.change < 0.06


@pytest.mark.parametrize("name", WAYS)
def test_two_models_are_quantised_as_the_first(name: str, tmp_path: Path) -> None:
    parents = [quantised(name, tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    result = merge(parents, calibration=DATA, method="rebasin", repair="none")
    found = onnx.load(result.save(tmp_path / "m.onnx"))
    assert operators(found) == operators(onnx.load(parents[0]))
    assert not alike(found, onnx.load(parents[0]))
    report = result.report.quantised
    assert report is not None
    assert report.change is not None
    assert 0 < report.change < 0.15  # of networks that nobody trained, whose layers are rounded one after the other
    assert all(cost.flops > 0 for cost in result.report.footprints)
    assert len({cost.parameters for cost in result.report.footprints}) == 1


def test_ranges_of_activations_are_the_mean_of_the_parents_without_data(tmp_path: Path) -> None:
    parents = [quantised("QDQ", tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    result = merge(parents, method="average")
    found = initializers(onnx.load(result.save(tmp_path / "m.onnx")))
    one, other = (initializers(onnx.load(parent)) for parent in parents)
    scales = [name for name in one if name.endswith("_scale") and not name.startswith(("w", "b"))]
    for name in scales:
        assert found[name] == pytest.approx((one[name] + other[name]) / 2, rel=0.02)
    assert result.report.quantised is not None
    assert result.report.quantised.ranges == "the mean of the parents'"


def test_the_first_says_what_the_merge_is(tmp_path: Path) -> None:
    onnx.save(convolutions(1), tmp_path / "floats.onnx")
    rounded = quantised("QDQ by channel", tmp_path / "rounded.onnx")
    found = onnx.ModelProto()
    for first, other, expected in (("floats", "rounded", False), ("rounded", "floats", True)):
        result = merge([tmp_path / f"{first}.onnx", tmp_path / f"{other}.onnx"], method="average")
        found = onnx.load(result.save(tmp_path / "m.onnx"))
        assert ("QuantizeLinear" in operators(found)) is expected
        assert (result.report.quantised is not None) is expected
        if result.report.quantised is not None:
            assert result.report.quantised.ranges == "the first model's, as no other has quantisers of these names"
    assert operators(onnx.load(rounded)) == operators(found)


def test_a_merge_may_stay_in_floats(cli: Cli, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        quantised("QOperator", tmp_path / f"{name}.onnx", seed)
    np.save(tmp_path / "calib.npy", IMAGES)
    given = ["run", "a.onnx", "b.onnx", "--calib", "calib.npy", "--method", "average", "--repair", "none"]
    ended = cli(*given, "--output-type", "float", "-o", "float.onnx")
    assert ended.returncode == 0, ended.stderr
    assert {node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node} <= {
        "Conv", "Add", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
    ended = cli(*given, "-o", "rounded.onnx")
    assert ended.returncode == 0, ended.stderr
    assert "quantised" in ended.stdout
    assert "outputs differ from the float merge by" in ended.stdout
    first = (tmp_path / "rounded.onnx").read_bytes()
    cli(*given, "-o", "rounded.onnx")
    assert (tmp_path / "rounded.onnx").read_bytes() == first


def test_what_cannot_be_quantised_again_is_said_before_the_work(cli: Cli, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        quantised("QDQ", tmp_path / f"{name}.onnx", seed)
    np.save(tmp_path / "calib.npy", IMAGES)
    given = [
        "run",
        "a.onnx",
        "b.onnx",
        "--calib",
        "calib.npy",
        "--method",
        "average",
        "--repair",
        "none",
        "-o",
        "m.onnx",
    ]
    ended = cli(*given, "--heads", "separate")
    assert ended.returncode == 2
    assert "add --output-type float" in ended.stderr
    assert not (tmp_path / "m.onnx").exists()
    assert cli(*given, "--heads", "separate", "--output-type", "float").returncode == 0
    widths: list[float | str] = [1.5, "auto"]
    for width in widths:
        with pytest.raises(UsageError, match="has other widths"):
            merge([tmp_path / "a.onnx", tmp_path / "b.onnx"], calibration=DATA, method="zipit", width=width)


def unknown(seed: int, head: int) -> onnx.ModelProto:
    graph = """(float[n,16] x) => (float[n,4] y) {
        h = com.microsoft.MatMulBnb4<K=16, N=16, block_size=16, quant_type=1>(x, q, s) r = Relu(h) y = MatMul(r, w)
    }"""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {"q": rng.integers(0, 255, 128, dtype=np.uint8), "s": np.ones(16, np.float32)}
    return build(graph, {**weights, **normal(w=(16, 4), seed=head)}, domains={"com.microsoft": 1}, check=False)


def test_what_cannot_be_taken_apart_must_be_the_same_in_all() -> None:
    assert merge([unknown(0, 0), unknown(0, 1)], method="average").report.quantised is None
    with pytest.raises(InputError, match=r"\(MatMulBnb4\) is quantised in a way that is not known here"):
        merge([unknown(0, 0), unknown(1, 1)], method="average")


@pytest.mark.parametrize("name", sorted({*FORMATS} - {*WAYS}))
def test_every_format_is_merged_without_data(name: str, tmp_path: Path) -> None:
    parents = [quantised(name, tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    assert merge(parents, method="average").report.quantised is not None


def test_a_landscape_is_of_the_float_forms(tmp_path: Path) -> None:
    parents = [quantised("QDQ", tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    merged = merge(parents, method="rebasin").save(tmp_path / "m.onnx")
    found = landscape(parents[0], parents[1], merged, data=DATA, method="rebasin", points=3, samples=16)
    assert [surface.name for surface in found.surfaces][:2] == ["as 0.onnx", "as 1.onnx"]


def test_a_merge_of_floats_can_be_quantised(tmp_path: Path) -> None:
    merged = merge([convolutions(0), convolutions(1)], method="average").save(tmp_path / "m.onnx")
    quantize_dynamic(merged, tmp_path / "q.onnx")
    assert "MatMulInteger" in operators(onnx.load(tmp_path / "q.onnx"))
