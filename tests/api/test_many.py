"""More than two models: every method takes them, and for joint matching it does not matter which comes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import MergeOptions, UsageError, evaluate, merge, permute
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.methods import METHODS
from onnxmerge.pipeline.options import merge_options
from tests.graphs import build, execute, initializers, normal

MLP = """(float[n,6] x) => (float[n,3] y) {
    a = Gemm<transB=1>(x, w1, b1)
    b = Relu(a)
    c = Gemm(b, w2, b2)
    d = Relu(c)
    y = Gemm(d, w3, b3)
}"""
X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
SHUFFLED = [(1, 0, 2, 3), (2, 3, 0, 1), (3, 1, 0, 2), (3, 2, 1, 0)]
INNER = {"method": "c2m3", "alpha": 1.0, "objective": "inner", "repair": "none"}
TWICE = [SHUFFLED[1], SHUFFLED[2]]
"""What is added to the method itself is asked with another model first twice, not with every one."""


def network(seed: int, noise: float = 0.0) -> onnx.ModelProto:
    """A model with noise of its own added: the more, the less it has in common with the others."""
    first = normal(w1=(12, 6), b1=(12,), w2=(12, 10), b2=(10,), w3=(10, 3), b3=(3,))
    other = normal(w1=(12, 6), b1=(12,), w2=(12, 10), b2=(10,), w3=(10, 3), b3=(3,), seed=seed, scale=noise)
    return build(MLP, {name: array + other[name] for name, array in first.items()})


def copies(folder: Path, noise: float) -> list[Path]:
    files = []
    for index in range(4):
        source = folder / f"source{index}.onnx"
        onnx.save(network(index + 1, noise), source)
        files.append(permute(source, seed=index).save(folder / f"copy{index}.onnx"))
    return files


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies with much noise of their own."""
    return copies(tmp_path_factory.mktemp("noisy"), noise=1.0)


@pytest.fixture(scope="module")
def similar(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies with half of that noise."""
    return copies(tmp_path_factory.mktemp("similar"), noise=0.5)


def answers(models: Sequence[Path], folder: Path, options: MergeOptions, *, data: bool = True) -> NDArray[np.float32]:
    result = merge(models, calibration={"x": X} if data else None, options=options)
    return execute(onnx.load(result.save(folder / "merged.onnx")), {"x": X})["y"]


@pytest.mark.parametrize(
    ("options", "orders"),
    [
        pytest.param(MergeOptions(method="c2m3"), TWICE, marks=pytest.mark.slow),
        (MergeOptions(method="c2m3", repair="none"), TWICE),
        pytest.param(
            merge_options({"method": "c2m3", "repair": "none", "alpha": 0.0}), SHUFFLED, marks=pytest.mark.slow
        ),
        pytest.param(merge_options(INNER), TWICE, marks=pytest.mark.slow),
        (MergeOptions(method="c2m3", refine="ls", outputs="features"), TWICE),
        pytest.param(MergeOptions(method="zipit", repair="none"), SHUFFLED, marks=pytest.mark.slow),
        (MergeOptions(method="mudsc-zip", repair="none"), TWICE),
    ],
    ids=["c2m3", "no repair", "activations", "inner products", "least squares", "zipit", "mudsc-zip"],
)
def test_the_order_of_the_models_does_not_matter(
    noisy: list[Path], tmp_path: Path, options: MergeOptions, orders: Sequence[tuple[int, ...]]
) -> None:
    files, expected = noisy, answers(noisy, tmp_path, options)
    for order in orders:
        found = answers([files[model] for model in order], tmp_path, options)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_matching_to_the_first_depends_on_which_is_first(noisy: list[Path], tmp_path: Path) -> None:
    """What joint matching is for: these are the models of the test above."""
    files, options = noisy, MergeOptions(method="mudsc-align", repair="none")
    expected = answers(files, tmp_path, options)
    others = (answers([files[model] for model in order], tmp_path, options) for order in SHUFFLED)
    assert any(np.abs(found - expected).max() > 0.01 * np.abs(expected).max() for found in others)


def test_permuted_copies_of_one_model_merge_into_it(tmp_path: Path) -> None:
    files = copies(tmp_path, noise=0.0)
    for options, data in (
        (MergeOptions(method="c2m3", repair="none"), True),
        (merge_options({"method": "c2m3", "alpha": 1.0}), False),
    ):
        found = answers(files, tmp_path, options, data=data)
        np.testing.assert_allclose(found, execute(onnx.load(files[0]), {"x": X})["y"], atol=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in TASK_VECTORS])
def test_every_method_takes_four_models(similar: list[Path], tmp_path: Path, method: str) -> None:
    result = merge(similar, calibration={"x": X}, method=method, weights=(1.0, 2.0, 3.0, 4.0))
    found = onnx.load(result.save(tmp_path / "merged.onnx"))
    assert np.isfinite(execute(found, {"x": X})["y"]).all()
    assert {name: array.shape for name, array in initializers(found).items()} == {
        name: array.shape for name, array in initializers(onnx.load(similar[0])).items()
    }
    assert result.report.weights == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert len(result.report.certificates) == 4


@pytest.mark.slow
def test_two_parents_and_their_noisy_copies_beat_the_plain_average(digits: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    models = [digits / "a.onnx", digits / "b.onnx"]
    for index, parent in enumerate(models[:2]):
        copy = onnx.load(permute(parent, seed=index).save(tmp_path / f"copy{index}.onnx"))
        for item in copy.graph.initializer:
            array = onnx.numpy_helper.to_array(item)
            if array.ndim > 1:
                noisy = array + 0.05 * array.std() * rng.standard_normal(array.shape).astype(array.dtype)
                item.CopyFrom(onnx.numpy_helper.from_array(noisy.astype(array.dtype), item.name))
        onnx.save(copy, tmp_path / f"copy{index}.onnx")
        models.append(tmp_path / f"copy{index}.onnx")
    data: dict[str, Any] = {"calibration": digits / "calib.npz", "samples": 400}
    merges = {name: merge(models, **data, method=name) for name in ("average", "c2m3")}
    test = digits / "test.npz"
    found = evaluate(merges, test, test, tasks=digits / "task.json")
    averages = [found[name].scores.average for name in ("average", "c2m3")]
    assert averages[0] is not None
    assert averages[1] is not None
    assert averages[1][0] > averages[0][0] + 0.1


def test_alpha_one_is_what_joint_matching_can_do_without_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calib"):
        merge(copies(tmp_path, noise=0.0), method="c2m3")
