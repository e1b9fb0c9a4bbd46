"""``refine="ls"``: least squares after matching, through the main job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxmerge.api import merge
from onnxmerge.errors import UsageError
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session


def parents(digits: Path) -> list[Path]:
    return [digits / "a.onnx", digits / "b.onnx"]


def directions(model: ir.Model, weights: Mapping[str, NDArray[Any]], feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    output: NDArray[Any] = next(iter(open_session(model, weights=weights).run(feed).values()))
    return np.asarray(output / np.linalg.norm(output, axis=1, keepdims=True))


def test_it_answers_more_as_its_parents_do(digits: Path) -> None:
    calibration = digits / "calib.npz"
    model = read_network(digits / "a.onnx").model
    with np.load(digits / "test.npz") as data:
        images = next(array for array in data.values() if array.ndim > 1)
    feed = {str(model.graph.inputs[0].name): images[:200].astype(np.float32)}
    goal = np.mean([directions(model, read_network(path).weights, feed) for path in parents(digits)], axis=0)
    labels, scores = {}, {}
    for choice in ("none", "ls"):
        result = merge(parents(digits), calibration=calibration, samples=300, method="act-align", refine=choice)
        scores[choice] = float((goal * directions(model, result.weights, feed)).sum(axis=1).mean())
        labels[choice] = result.report.repair
    assert scores["ls"] > scores["none"]
    assert labels["ls"] == "least squares"


def test_regmean_is_followed_by_what_restores_statistics(digits: Path) -> None:
    plain, found = (
        merge(
            parents(digits),
            calibration=digits / "calib.npz",
            samples=300,
            method="act-align",
            repair="repair",
            refine=refine,
        )
        for refine in ("none", "regmean")
    )
    assert found.report.repair == f"RegMean, {plain.report.repair}"
    changed = {name for name in plain.weights if not np.array_equal(plain.weights[name], found.weights[name])}
    assert {name for name in changed if plain.weights[name].ndim == 4}  # convolutions
    assert not found.report.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "average"}, "give calibration data"),
        ({"method": "average", "refine": "regmean"}, "give calibration data"),
        ({"method": "zipit", "calibration": True, "refine": "regmean"}, "zips"),
        ({"method": "average", "calibration": True, "repair": "repair"}, "restores statistics itself"),
    ],
)
def test_what_does_not_go_together_is_refused(digits: Path, settings: dict[str, Any], message: str) -> None:
    given = digits / "calib.npz" if settings.pop("calibration", False) else None
    with pytest.raises(UsageError, match=message):
        merge(parents(digits), calibration=given, **{"refine": "ls", **settings})
