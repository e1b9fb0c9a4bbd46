"""The example pair: small, honest (no test image was trained or calibrated on), and what its task.json says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.evaluation.accuracy import Scores, score, score_ensemble
from onnxmerge.evaluation.task import read_tasks
from tests.graphs import execute


def scores(digits: Path) -> tuple[list[Scores], Scores]:
    described = read_tasks(digits / "task.json")
    test = np.load(digits / "test.npz")
    outputs = [
        execute(onnx.load(path), {described.input: test["images"]})[described.output] for path, _ in described.models
    ]
    alone = [score(output, test["labels"], described.tasks, disjoint=True) for output in outputs]
    return alone, score_ensemble(outputs, test["labels"], described.tasks, disjoint=True)


def test_it_is_small(digits: Path) -> None:
    assert {path.name for path in digits.iterdir()} == {"a.onnx", "b.onnx", "calib.npz", "test.npz", "task.json"}
    assert max(path.stat().st_size for path in digits.iterdir()) < 300_000


def test_batchnorm_is_kept(digits: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        model = onnx.load(digits / name)
        onnx.checker.check_model(model, full_check=True)
        assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 6


def test_calibration_is_unlabelled_and_apart_from_the_test(digits: Path) -> None:
    calibration, test = np.load(digits / "calib.npz"), np.load(digits / "test.npz")
    assert calibration.files == ["images"]
    assert test.files == ["images", "labels"]
    seen = {image.tobytes() for image in calibration["images"]}
    assert not seen & {image.tobytes() for image in test["images"]}
    assert len(seen) + len(test["images"]) == 1797


def test_class_vectors_are_orthonormal(digits: Path) -> None:
    vectors = np.concatenate([task.vectors for task in read_tasks(digits / "task.json").tasks])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-5)


@pytest.mark.smoke
def test_each_parent_knows_its_own_task_only(digits: Path) -> None:
    alone, ensemble = scores(digits)
    for own, result in enumerate(alone):
        assert result.tasks[own] > 0.98
        assert result.tasks[1 - own] < 0.4
        assert result.joint is not None
        assert result.joint < 0.52
    assert ensemble.average > 0.98
    assert ensemble.joint is not None
    assert ensemble.joint > 0.7
