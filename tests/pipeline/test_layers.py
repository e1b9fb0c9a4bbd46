"""What the summary of a merge says of its layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from onnxmerge.api.summary import departure_told, facts, layers_told
from onnxmerge.pipeline.details.behaviour import LayerDrift
from onnxmerge.pipeline.details.layers import LayerDone, LayersReport
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
CALIB = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def mlp(seed: int) -> onnx.ModelProto:
    model = build(MLP, normal(w1=(6, 8), b1=(8,), w2=(8, 3), b2=(3,), seed=seed))
    for node, name in zip(model.graph.node, ("first", "relu", "last"), strict=True):
        node.name = name
    return model


def layers(*models: onnx.ModelProto, **how: Any) -> LayersReport:
    found = merge(models, calibration=CALIB, **how).report.layers
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"method": "average", "repair": "none"}, "2 averaged"),
        ({"method": "mudsc-align", "refine": "ls"}, "2 solved for what the parents compute"),
        (
            {"method": "mudsc-align", "repair": "none", "answer": "ensemble", "outputs": "logits"},
            "1 solved for what the ensemble answers, 1 averaged",
        ),
    ],
)
def test_what_was_done_to_each(how: dict[str, Any], told: str) -> None:
    assert layers_told(layers(mlp(0), mlp(1), **how)) == told


def test_a_merge_with_itself_is_untouched_and_departs_nowhere() -> None:
    found = layers(mlp(0), mlp(0), method="mudsc-align")
    assert layers_told(found) == "2 untouched"
    assert found.departs is None
    assert departure_told(found) == "no layer from its parents: each is nearer to their mean than 50% of that"


def test_the_first_layer_that_departs_is_named() -> None:
    found = layers(mlp(0), mlp(1), method="average", repair="none")
    assert found.departs is not None
    assert found.departs.node == "last", "the average of the first layer's is their mean"
    assert departure_told(found).startswith("first at last, ")


def test_a_few_of_many_are_named() -> None:
    layers = tuple(LayerDone(f"n{index}", "averaged" if index == 2 else "solved") for index in range(5))
    assert layers_told(LayersReport(layers, None)) == "4 solved for what the parents compute, 1 averaged (n2)"


def test_layers_of_huge_activations_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmerge.pipeline.details.layers.MOST", 10)
    found = merge([mlp(0), mlp(1)], calibration=CALIB, method="average").report
    assert found.layers is not None
    assert (found.layers.compared, found.layers.departs) == (False, None)
    titles = [title for title, _ in facts(found)]
    assert "layers" in titles
    assert "departs" not in titles


def test_without_data_nothing_is_said() -> None:
    report = merge([mlp(0), mlp(1)], method="average").report
    assert report.layers is None


def test_a_departure_that_is_no_number_is_text_in_json() -> None:
    report = merge([mlp(0), mlp(1)], calibration=CALIB, method="average").report
    assert report.layers is not None
    far = LayerDrift("n", "t", (1.0, math.nan), math.inf, 1.0)
    told = replace(report, layers=replace(report.layers, departs=far)).to_dict()["layers"]["departs"]
    assert (told["mean"], told["parents"]) == ("inf", [1.0, "nan"])
