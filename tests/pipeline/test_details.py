"""What a merge came to, looked at unit by unit, layer by layer, output by output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge, permute
from onnxmerge.pipeline.details.behaviour import ENSEMBLE, MERGED
from onnxmerge.pipeline.details.merge import MergeDetails
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
CALIB = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def mlp(seed: int, classes: int = 3) -> onnx.ModelProto:
    graph = MLP.replace("float[n,3] y", f"float[n,{classes}] y")
    return build(graph, normal(w1=(6, 8), b1=(8,), w2=(8, classes), b2=(classes,), seed=seed))


def details(*models: onnx.ModelProto, **how: Any) -> MergeDetails:
    found = merge(models, details=True, **how).details
    assert found is not None
    return found


def test_they_are_only_there_where_they_are_asked_for() -> None:
    assert merge([mlp(0), mlp(1)], method="average").details is None


@pytest.mark.parametrize("method", ["mudsc-align", "rebasin", "zipit"])
def test_a_permuted_copy_is_the_same_in_every_respect(method: str, tmp_path: Any) -> None:
    permute(mlp(0), seed=3).save(tmp_path / "p.onnx")
    found = details(mlp(0), onnx.load(tmp_path / "p.onnx"), method=method, calibration=CALIB)
    (group,) = found.groups
    assert group.similarity[0].weights == pytest.approx(1.0)
    assert group.to_parents == pytest.approx(1.0)
    assert {each.done for each in found.weights} == {"untouched"}
    assert all(layer.mean < 1e-5 and max(layer.parents) < 1e-5 for layer in found.layers)
    assert [layer.spread for layer in found.layers] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert {each.other for each in found.outputs if each.model == MERGED} >= {0, 1}
    assert all(each.cosine == pytest.approx(1.0) for each in found.outputs)


@pytest.mark.parametrize(
    ("how", "done"),
    [
        ({"method": "average", "repair": "none"}, {"averaged"}),
        ({"method": "mudsc-align", "repair": "repair"}, {"averaged", "repaired"}),
        ({"method": "mudsc-align", "refine": "ls"}, {"solved"}),
        ({"method": "mudsc-align", "refine": "ls", "answer": "ensemble", "outputs": "logits"}, {"solved", "answer"}),
    ],
)
def test_what_was_done_to_the_weights(how: dict[str, Any], done: set[str]) -> None:
    found = details(mlp(0), mlp(1), calibration=CALIB, **how)
    assert {each.done for each in found.weights} <= done
    assert len(found.weights) == 4
    assert all((each.change == 0) == (each.done == "averaged") for each in found.weights)


def test_task_vectors() -> None:
    found = details(mlp(0), mlp(1), base=mlp(2), method="task-arithmetic")
    assert not found.groups
    assert {each.done for each in found.weights} == {"task vectors"}


def test_classes_agree_with_each_parent_and_their_ensemble() -> None:
    found = details(mlp(0), mlp(1), calibration=CALIB, method="average", outputs="logits", answer="ensemble")
    seen = {(each.model, each.other): each for each in found.outputs}
    assert set(seen) == {(MERGED, 0), (MERGED, 1), (MERGED, ENSEMBLE), (0, ENSEMBLE), (1, ENSEMBLE)}
    assert all(each.top1 is not None and 0 <= each.top1 <= 1 for each in found.outputs)


def test_heads_apart_are_compared_with_their_own_parent() -> None:
    found = details(mlp(0), mlp(1, classes=4), calibration=CALIB, method="mudsc-align")
    assert sorted((each.output, each.model, each.other) for each in found.outputs) == [
        ("y_a", MERGED, 0),
        ("y_b", MERGED, 1),
    ]
    assert [layer.node for layer in found.layers]


def test_without_data_only_weights_are_compared() -> None:
    found = details(mlp(0), mlp(1), method="rebasin")
    assert (found.layers, found.outputs, found.samples) == ((), (), 0)
    (group,) = found.groups
    assert group.similarity[0].activations is None
    assert group.similarity[0].weights is not None


@pytest.mark.parametrize("width", [0.5, 1.5])
def test_other_widths(width: float) -> None:
    found = details(mlp(0), mlp(1), calibration=CALIB, method="zipit", width=width)
    (group,) = found.groups
    assert group.to_parents is None
    assert len(found.layers) == 2
