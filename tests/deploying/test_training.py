"""Merges back in PyTorch: the example that fills a state_dict, and the tools that train (these with torch alone)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmerge import merge
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session

State = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def to_torch(checkout: Path) -> ModuleType:
    path = checkout / "docs" / "examples" / "training" / "to_torch.py"
    spec = importlib.util.spec_from_file_location("to_torch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def merged(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = merge([digits / "a.onnx", digits / "b.onnx"], method="rebasin", export_for_training=True)
    return result.save(tmp_path_factory.mktemp("merged") / "m.onnx")


def state_before(to_torch: ModuleType, parent: onnx.ModelProto) -> State:
    """What the digits' class had when it was exported: its names are those of the file."""
    found: State = {name: np.array(value) for name, value in to_torch.tensors(parent).items()}
    return {**found, "bn.num_batches_tracked": np.array(7)}


def test_a_state_dict_is_filled_by_the_numbers_that_the_parent_had(
    to_torch: ModuleType, digits: Path, merged: Path
) -> None:
    parent, model = onnx.load(digits / "a.onnx"), onnx.load(merged)
    before = state_before(to_torch, parent)
    renamed = {name.replace("stem", "first"): value for name, value in before.items()}
    renamed["head.weight"] = np.ascontiguousarray(renamed["head.weight"].T)
    found = to_torch.state_of(model, parent, renamed)
    known = to_torch.tensors(model)
    assert [*found] == [*renamed]
    assert found["bn.num_batches_tracked"] == 7
    assert np.array_equal(found["first.weight"], known["stem.weight"])
    assert np.array_equal(found["head.weight"], known["head.weight"].T)
    assert np.array_equal(found["blocks.1.shortcut.1.bias"], known["blocks.1.shortcut.1.bias"])


def without(state: Mapping[str, Any], name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


def test_a_class_that_does_not_fit_is_refused(to_torch: ModuleType, digits: Path, merged: Path) -> None:
    parent, model = onnx.load(digits / "a.onnx"), onnx.load(merged)
    state = state_before(to_torch, parent)
    for wrong, message in (
        ({**state, "stem.weight": state["stem.weight"] + 1}, "holds no such numbers"),
        (without(state, "stem.weight"), "stem.weight: was learned, and is none"),
    ):
        with pytest.raises(SystemExit, match=message):
            to_torch.state_of(model, parent, wrong)
    with pytest.raises(SystemExit, match="was not made with --export-for-training"):
        to_torch.state_of(parent, parent, state)
    equal = onnx.load(digits / "a.onnx")
    twins = [each for each in equal.graph.initializer if each.name in ("blocks.0.bn1.bias", "blocks.0.bn2.bias")]
    for each in twins:
        each.CopyFrom(numpy_helper.from_array(np.zeros(24, np.float32), each.name))
    other = without({**state, "x": np.zeros(24, np.float32)}, "blocks.0.bn1.bias")
    with pytest.raises(SystemExit, match="x: may be any of"):
        to_torch.state_of(model, equal, without(other, "blocks.0.bn2.bias"))


def answers(path: Path, images: NDArray[Any]) -> NDArray[Any]:
    read = read_network(path)
    return np.asarray(open_session(read.model, weights=read.weights).run({"images": images})["embedding"])


@pytest.mark.slow
def test_a_network_in_torch_computes_what_the_file_does_and_learns(digits: Path, merged: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tools.torch_network import TorchNetwork, roles_of
    from tools.torch_training import trained_for

    torch.set_num_threads(1)
    with np.load(digits / "test.npz") as data:
        images = data["images"]
    for path in (merged, digits / "a.onnx"):
        network = TorchNetwork(onnx.load(path), roles_of(onnx.load(merged))).eval()
        with torch.no_grad():
            assert np.allclose(network(torch.from_numpy(images)).numpy(), answers(path, images), atol=1e-4)
    network = TorchNetwork(onnx.load(digits / "a.onnx"), roles_of(onnx.load(merged)))
    goal, losses = torch.zeros(()).expand(len(images), 1), list[float]()

    def loss(features: Any, right: list[Any]) -> Any:
        found = ((features - right[0]) ** 2).mean()
        losses.append(float(found.detach()))
        return found

    trained_for(3, network, lambda _: (torch.from_numpy(images), [goal]), loss)
    assert losses[-1] < losses[0] / 2
    onnx.save(network.onnx(), tmp_path / "trained.onnx")
    with torch.no_grad():
        found = network(torch.from_numpy(images)).numpy()
    assert np.allclose(found, answers(tmp_path / "trained.onnx", images), atol=1e-4)
    assert "blocks.1.shortcut.1.bias" in read_network(tmp_path / "trained.onnx").weights  # apart, as in the merge


@pytest.mark.slow
def test_distillation_gives_answers_of_both_parents() -> None:
    torch = pytest.importorskip("torch")
    from tools.distil import Teacher, disagreement
    from tools.pairs import open_pair
    from tools.torch_training import questions

    pair = open_pair("digits")
    teacher = Teacher(pair, views=2)
    images, answers = teacher.view(0)
    moved, _ = teacher.view(1)
    assert teacher.view(2)[0] is images
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    (both,) = answers
    assert torch.allclose(both[:, :5].sum(1), torch.tensor(0.5, dtype=both.dtype))
    vectors = questions(pair)
    named = vectors[0][both.argmax(1)]
    assert float(disagreement(named, vectors, answers)) < float(disagreement(-named, vectors, answers))
