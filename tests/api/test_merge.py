"""The whole job on the example pair, through the Python API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import InputError, OnnxmergeError, StructureError, UsageError, merge, permute
from onnxmerge.api import MergeOptions
from onnxmerge.api.comparison import compare
from tests.graphs import build, execute, initializers, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"


def pair_of(digits: Path) -> list[Path]:
    return [digits / "a.onnx", digits / "b.onnx"]


def test_merging_beats_the_plain_average_on_the_example(digits: Path) -> None:
    _, result, scores = compare(digits, MergeOptions(method="mudsc-align", samples=300))
    merged, average = scores["merged (mudsc-align)"].scores, scores["plain average"].scores
    assert merged.average is not None
    assert average.average is not None
    assert merged.average[0] > average.average[0] + 0.1
    assert merged.joint is not None
    assert average.joint is not None
    assert merged.joint.top[0] > average.joint.top[0] + 0.1
    assert all(c.passed for c in result.report.certificates)
    assert result.report.repair.startswith("BatchNorm re-estimated")


@pytest.mark.parametrize("method", ["average", "rebasin", "act-align", "mudsc-align"])
def test_a_model_merged_with_its_permuted_copy_is_the_model(digits: Path, tmp_path: Path, method: str) -> None:
    model = digits / "a.onnx"
    copy = permute(model, seed=3).save(tmp_path / "copy.onnx")
    given: dict[str, Any] = {"calibration": digits / "calib.npz", "samples": 100, "repair": "none"}
    merged = merge([model, copy], method=method, **given).save(tmp_path / "merged.onnx")
    before, after = initializers(onnx.load(model)), initializers(onnx.load(merged))
    same = all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert same == (method != "average")


def test_the_same_inputs_and_seed_give_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    files = [
        merge(pair_of(digits), calibration=digits / "calib.npz", samples=200, seed=5, effort="fast").save(
            tmp_path / f"{run}.onnx"
        )
        for run in "ab"
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_result_keeps_the_first_models_interface_and_says_where_it_comes_from(digits: Path, tmp_path: Path) -> None:
    first = onnx.load(digits / "a.onnx")
    merged = onnx.load(merge(pair_of(digits), method="average").save(tmp_path / "m.onnx"))
    assert [i.name for i in merged.graph.input] == [i.name for i in first.graph.input]
    assert [o.name for o in merged.graph.output] == [o.name for o in first.graph.output]
    assert {o.domain: o.version for o in merged.opset_import} == {o.domain: o.version for o in first.opset_import}
    assert merged.ir_version == first.ir_version
    assert {i.name for i in merged.graph.initializer} == {i.name for i in first.graph.initializer}
    metadata = {p.key: p.value for p in merged.metadata_props}
    assert metadata["onnxmerge.method"] == "average"
    assert len(metadata["onnxmerge.sources"].split()) == 2


def test_float16_models_keep_their_type(tmp_path: Path) -> None:
    graph = MLP.replace("float[", "float16[")
    models = [
        build(graph, {k: v.astype(np.float16) for k, v in normal(w1=(5, 6), b1=(5,), w2=(5, 3), seed=s).items()})
        for s in (1, 2)
    ]
    merged = onnx.load(merge(models, method="rebasin").save(tmp_path / "m.onnx"))
    assert {a.dtype for a in initializers(merged).values()} == {np.dtype(np.float16)}


def test_three_models_merge(tmp_path: Path) -> None:
    model = build(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    copies = [permute(model, seed=s).save(tmp_path / f"{s}.onnx") for s in (1, 2)]
    merged = merge([model, *copies], method="rebasin").save(tmp_path / "m.onnx")
    before, after = initializers(model), initializers(onnx.load(merged))
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_errors_say_what_is_missing(digits: Path) -> None:
    with pytest.raises(UsageError, match="two models or more"):
        merge([digits / "a.onnx"])
    with pytest.raises(UsageError, match="--calib"):
        merge(pair_of(digits), method="mudsc-align")
    with pytest.raises(UsageError, match="no method 'magic'"):
        merge(pair_of(digits), method="magic")
    with pytest.raises(InputError, match=r"missing\.onnx"):
        merge([digits / "a.onnx", digits / "missing.onnx"], method="average")
    other = build(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    with pytest.raises(StructureError):
        merge([digits / "a.onnx", other], method="average")


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    weights = normal(w1=(5, 6), b1=(5,), w2=(5, 3))
    broken = {**weights, "w2": np.full((5, 3), np.nan, np.float32)}
    with pytest.raises(InputError, match="w2"):
        merge([build(MLP, weights), build(MLP, broken)], method="rebasin").save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_what_was_there(digits: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"precious")
    result = merge(pair_of(digits), method="average")
    broken = {name: result.weights[name] for name in result.weights}
    broken[next(iter(broken))] = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(OnnxmergeError):
        replace(result, weights=broken).save(target)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


def test_the_merged_model_may_be_converted_to_float16(digits: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"calibration": digits / "calib.npz", "method": "act-align", "samples": 100}
    wide = onnx.load(merge(pair_of(digits), **given).save(tmp_path / "wide.onnx"))
    half = onnx.load(merge(pair_of(digits), output_type="float16", **given).save(tmp_path / "half.onnx"))
    assert {a.dtype for a in initializers(half).values() if a.dtype.kind == "f"} == {np.dtype(np.float16)}
    assert [i.type.tensor_type.elem_type for i in half.graph.input] == [onnx.TensorProto.FLOAT]
    with np.load(digits / "test.npz") as test:
        images = {name: test[name][:50] for name in test.files if name != "labels"}
    before, after = (next(iter(execute(model, images).values())) for model in (wide, half))
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


@pytest.mark.parametrize("also", ["float[n,4] x", "float[4,6] w"])
def test_an_input_or_a_weight_that_is_an_output_is_given_back(also: str) -> None:
    text = f"(float[n,4] x) => (float[n,3] y, {also}) {{ h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }}"
    model = build(text, normal(w=(4, 6), v=(6, 3)))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    result = merge([model, model], calibration={"x": x}, method="mudsc-align", repair="repair")
    assert result.report.certificates[0].passed
    np.testing.assert_array_equal(result.weights["v"], initializers(model)["v"])
