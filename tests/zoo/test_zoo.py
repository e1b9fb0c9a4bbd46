from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.zoo.topology import FOLDER, SUFFIX, available, draw, label, load_topology
from tools.zoo.measure import Measurement, measure, measure_within

FAST = (
    "torchvision/resnet18.dynamo",
    "torchvision/shufflenet_v2_x0_5.dynamo",
    "transformers/bert.dynamo",
    "transformers/gpt2.dynamo",
    "transformers/qwen3.torchscript",
    "transformers/t5.torchscript",
    "transformers/wav2vec2.torchscript",
    "timm/levit_128s.dynamo",
)
"""One of each kind, small enough for every run; the others are slow tests."""

REFUSED: dict[str, str] = {}
"""Topologies that may be refused, with what the refusal must say."""


LIMIT = 300
"""Seconds that one topology may take in the slow suite, on a machine that does other things too."""


def check(path: Path, measured: Measurement) -> None:
    if label(path) in REFUSED:
        assert measured.refusal is not None
        assert REFUSED[label(path)] in measured.refusal
    else:
        assert measured.passed, measured.refusal
        assert measured.free > 0


@pytest.mark.parametrize("name", FAST)
def test_permuting_what_is_free_does_not_change_the_network(name: str) -> None:
    path = FOLDER / f"{name}{SUFFIX}"
    check(path, measure(path))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in available() if label(path) not in FAST], ids=label)
def test_permuting_what_is_free_does_not_change_any_network(path: Path) -> None:
    check(path, measure_within(path, LIMIT))


@pytest.mark.parametrize("name", FAST)
def test_fast_topologies_are_stored(name: str) -> None:
    assert (FOLDER / f"{name}{SUFFIX}").exists()


def test_the_zoo_is_large_and_small() -> None:
    architectures = {label(path).rpartition(".")[0] for path in available()}
    assert len(architectures) >= 120
    assert sum(path.stat().st_size for path in available()) < 15_000_000


def test_the_same_seed_draws_the_same_weights() -> None:
    path = FOLDER / f"{FAST[0]}{SUFFIX}"
    assert load_topology(path, 1).SerializeToString() == load_topology(path, 1).SerializeToString()
    assert load_topology(path, 1).SerializeToString() != load_topology(path, 2).SerializeToString()


@pytest.mark.parametrize(
    ("rule", "mean", "std", "sign"),
    [
        ("normal 0.5 2", 0.5, 2.0, 0),
        ("lognormal 0 0.1 1", 1.0, 0.1, 1),
        ("lognormal 0 0.1 -1", -1.0, 0.1, -1),
        ("full 3", 3, 0, 1),
    ],
)
def test_weights_are_drawn_as_described(rule: str, mean: float, std: float, sign: int) -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[100, 100], doc_string=rule)
    values = draw(tensor, [0])
    assert values.shape == (100, 100)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(mean, abs=0.1)
    assert values.std() == pytest.approx(std, abs=0.1)
    if sign:
        assert np.all(np.sign(values) == sign)
