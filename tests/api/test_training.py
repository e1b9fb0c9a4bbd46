"""``export_for_training``: a merge that can be trained further, as its parents can."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.api import merge
from onnxmerge.errors import OnnxmergeError
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from onnxmerge.model.training import ROLES
from tests.command_line import Cli
from tests.quantised import quantised


def parents(digits: Path) -> list[Path]:
    return [digits / "a.onnx", digits / "b.onnx"]


def roles(model: onnx.ModelProto) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads({each.key: each.value for each in model.metadata_props}[ROLES])
    return found


def furthest(path: Path, images: Any) -> float:
    """How far running means are from those of what is normalised, in deviations of it, at most."""
    network = read_network(path)
    norms = [node for node in network.graph if node.op_type == "BatchNormalization"]
    read = [str(node.inputs[0].name) for node in norms if node.inputs[0] is not None]
    found = open_session(network.model, weights=network.weights, outputs=read).run({"images": images})
    far = []
    for node, name in zip(norms, read, strict=True):
        mean, variance = (network.weights[str(each.name)] for each in node.inputs[3:5] if each is not None)
        far.append(float((np.abs(found[name].mean(axis=(0, 2, 3)) - mean) / np.sqrt(variance)).max()))
    return max(far)


def test_each_parameter_of_the_parents_has_its_name_and_its_own_value(digits: Path, tmp_path: Path) -> None:
    parent = onnx.load(digits / "a.onnx")
    (copied,) = [node for node in parent.graph.node if node.op_type == "Identity"]
    found = merge(parents(digits), method="rebasin", export_for_training=True).save(tmp_path / "m.onnx")
    model = onnx.load(found)
    names = [tensor.name for tensor in model.graph.initializer]
    assert names == [*(tensor.name for tensor in parent.graph.initializer), copied.output[0]]
    assert [node.op_type for node in model.graph.node] == [
        node.op_type for node in parent.graph.node if node is not copied
    ]
    told = roles(model)
    assert Counter(names) == Counter(name for part in told.values() for name in part)
    assert {*told["statistics"]} == {name for name in names if "running" in name}
    assert copied.output[0] in told["learned"]


def test_running_means_are_means_where_layers_were_solved(digits: Path, tmp_path: Path) -> None:
    with np.load(digits / "calib.npz") as data:
        images = data["images"]
    far = []
    for wanted in (False, True):
        how: dict[str, Any] = {"method": "act-align", "refine": "ls", "export_for_training": wanted}
        result = merge(parents(digits), calibration=digits / "calib.npz", samples=200, **how)
        far.append(furthest(result.save(tmp_path / "m.onnx"), images))
    assert far[1] < 0.15 < far[0]


def test_what_a_parent_was_told_of_training_is_not_told_of_its_merge(digits: Path, tmp_path: Path) -> None:
    first = merge(parents(digits), method="rebasin", export_for_training=True).save(tmp_path / "first.onnx")
    second = merge([first, digits / "b.onnx"], method="rebasin").save(tmp_path / "second.onnx")
    assert ROLES not in {each.key for each in onnx.load(second).metadata_props}


def test_a_model_merged_with_itself_has_nothing_that_counts_as_learned(digits: Path) -> None:
    report = merge([digits / "a.onnx"] * 2, method="average", export_for_training=True).report
    assert report.training is not None
    assert not report.training.learned
    assert any("none is told as learned" in note for note in report.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": "separate"}, "leave --heads and --until out"),
        ({"until": ("stem",)}, "leave --heads and --until out"),
        ({"method": "zipit", "width": 1.5}, "leave --width and --share out"),
        ({"method": "act-align", "share": 0.5}, "leave --width and --share out"),
        ({"output_type": "float16"}, "leave --output-type float16 out"),
    ],
)
def test_what_makes_another_network_is_refused(digits: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxmergeError, match=message):
        merge(parents(digits), calibration=digits / "calib.npz", export_for_training=True, **settings)


def test_heads_are_not_kept_apart_unasked(digits: Path, tmp_path: Path) -> None:
    other = onnx.load(digits / "b.onnx")
    other.graph.node.append(onnx.helper.make_node("Relu", ["embedding"], ["more"]))
    other.graph.output[0].name = "more"
    onnx.save(other, tmp_path / "other.onnx")
    models = [digits / "a.onnx", tmp_path / "other.onnx"]
    assert merge(models, method="rebasin").report.heads is not None
    with pytest.raises(OnnxmergeError, match="differ in structure"):
        merge(models, method="rebasin", export_for_training=True)


def test_integers_are_not_trained(tmp_path: Path) -> None:
    models = [quantised("dynamic", tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    with pytest.raises(OnnxmergeError, match="is quantised, and integers are not trained: add --output-type float"):
        merge(models, method="rebasin", export_for_training=True)
    report = merge(models, method="rebasin", export_for_training=True, output_type="float").report
    assert report.training is not None
    assert report.training.learned


def test_the_command_tells_what_there_is_to_train(digits: Path, tmp_path: Path, cli: Cli) -> None:
    output = tmp_path / "m.onnx"
    found = cli("run", *parents(digits), "--method", "rebasin", "--export-for-training", "-o", output)
    assert found.returncode == 0
    assert "20 learned, 12 running statistics, 0 fixed" in found.stdout
    refused = cli("run", *parents(digits), "--export-for-training", "--share", "0.5", "-o", output)
    assert refused.returncode == 2
