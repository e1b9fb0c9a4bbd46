"""The example pair: small, honest (no test image was trained or calibrated on), and what its task.json says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge import evaluate
from onnxmerge.evaluation.scorer import Accuracy
from onnxmerge.evaluation.task_file import read_tasks


def test_it_is_small(digits: Path) -> None:
    own = {"LICENCE", "a.onnx", "b.onnx", "calib.npz", "test.npz", "task.json"}
    assert {path.name for path in digits.iterdir()} == own
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
    found = [task.vectors for task in read_tasks(digits / "task.json").tasks]
    vectors = np.concatenate([own for own in found if own is not None])
    assert len(vectors) == 10
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-5)


@pytest.mark.smoke
def test_each_parent_knows_its_own_task_only(digits: Path) -> None:
    tasks, test = read_tasks(digits / "task.json"), digits / "test.npz"
    found = evaluate([], test, test, tasks=tasks, parents=[path for path, _ in tasks.models])
    *alone, ensemble, _ = [model.scores for model in found.models]
    for own, scores in enumerate(alone):
        known, other = scores.tasks[own], scores.tasks[1 - own]
        assert isinstance(known, Accuracy)
        assert isinstance(other, Accuracy)
        assert known.top[0] > 0.98
        assert other.top[0] < 0.4
        assert scores.joint is not None
        assert scores.joint.top[0] < 0.52
    assert ensemble.average is not None
    assert ensemble.average[0] > 0.98
    assert ensemble.joint is not None
    assert ensemble.joint.top[0] > 0.7
