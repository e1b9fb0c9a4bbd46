"""Exported networks of nested and alternating structure: merged with a permuted copy, each computes what it did.

Every method must find its way through groups in groups (heads of shared keys and values, heads with normalised queries
and keys, experts, groups of channels), by weights drawn at random and by what the network does with random inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxmerge import MergeResult, merge, permute
from onnxmerge.model.read import read_network
from onnxmerge.model.sample import plausible_samples
from onnxmerge.model.session import open_session
from onnxmerge.model.trace import trace
from tests.zoo.topology import FOLDER, SUFFIX, load_topology

Feed = dict[str, NDArray[Any]]
METHODS = ("rebasin", "act-align", "mudsc-align", "c2m3", "zipit", "weight-zip", "mudsc-zip")

STRUCTURES = {
    "transformers/llama.dynamo": "queries of several heads share keys and values",
    "transformers/mistral.torchscript": "the same, exported otherwise",
    "transformers/qwen3.dynamo": "queries and keys normalised inside each head, shared keys and values",
    "transformers/qwen3.torchscript": "the same, exported otherwise",
    "transformers/olmo2.dynamo": "queries and keys normalised over all heads",
    "transformers/gpt_bigcode.dynamo": "one head of keys and values for all queries",
    "transformers/falcon.dynamo": "the same, with a fused projection",
    "transformers/gpt2.dynamo": "queries, keys and values from one projection",
    "transformers/bloom.dynamo": "the same, head by head; heads that all layers share; batch folded into the heads",
    "transformers/gpt_neox.dynamo": "the same, with rotary positions on a part of each head",
    "transformers/mixtral.dynamo": "experts behind a router",
    "transformers/qwen3_moe.dynamo": "experts, and queries and keys normalised",
    "transformers/jamba.torchscript": "state spaces, attention and experts in turn",
    "transformers/mamba2.dynamo": "heads and groups of a state space",
    "transformers/squeezebert.torchscript": "attention from grouped convolutions",
    "hand/denoiser.dynamo": "groups of channels normalised together, and attention over pixels",
    "hand/conv_tasnet.torchscript": "depthwise convolutions between normalised streams",
    "hand/lstm_tagger.torchscript": "recurrent units in two directions",
    "hand/gru_forecaster.torchscript": "recurrent units, layer upon layer",
}
"""Topologies in which activations tell all units apart."""

RECTIFIED = {
    "torchvision/regnet_x_400mf.dynamo": "grouped convolutions",
    "transformers/swinv2.torchscript": "position biases computed from two coordinates, windows",
    "hand/nerf.torchscript": "positions that enter twice",
}
"""Topologies with units that random inputs leave dead, or alive at one place: to activations any two are alike.

Alignments by activations let weights decide among those; zipit puts dead units together instead."""

FAST = (
    ("rebasin", "transformers/llama.dynamo"),
    ("mudsc-align", "transformers/gpt_bigcode.dynamo"),
    ("c2m3", "hand/lstm_tagger.torchscript"),
    ("zipit", "transformers/bloom.dynamo"),
    ("weight-zip", "transformers/gpt2.dynamo"),
    ("mudsc-zip", "hand/conv_tasnet.torchscript"),
    ("act-align", "hand/nerf.torchscript"),
)
"""Each method and several structures, for every run; the rest are slow tests."""


@cache
def case(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto, list[Feed], list[Feed]]:
    """A network and a permuted copy, data to calibrate on, and other data."""
    model = load_topology(FOLDER / f"{name}{SUFFIX}")
    moved = permute(model, seed=1)
    copy = moved.network.model.clone()
    for key, value in copy.graph.initializers.items():
        if key in moved.weights:
            value.const_value = ir.tensor(np.asarray(moved.weights[key]), name=key)
    network = read_network(model)
    shapes = {key: array.shape for key, array in trace(network).sample.items()}
    feeds = [next(iter(plausible_samples(network, seed=seed, shapes=shapes))) for seed in range(10)]
    return model, ir.to_proto(copy), feeds[:8], feeds[8:]


def outputs(model: ir.Model, weights: Mapping[str, Any] | None, feeds: Sequence[Feed]) -> NDArray[np.float64]:
    """All float outputs that are finite (masks are not), flattened."""
    session = open_session(model, weights=weights)
    found = [array for feed in feeds for array in session.run(feed).values() if array.dtype.kind == "f"]
    flat = np.concatenate([array.astype(np.float64).reshape(-1) for array in found])
    return np.where(np.abs(flat) < 1e30, flat, 0.0)


def merged(method: str, name: str, share: float = 1.0) -> MergeResult:
    model, copy, calibration, _ = case(name)
    return merge([model, copy], calibration=calibration, method=method, repair="none", provider="cpu", share=share)


def difference(result: MergeResult, name: str) -> float:
    """How far the merged network's outputs are from the model's, relative to their spread."""
    model, _, _, test = case(name)
    want = outputs(read_network(model).model, None, test)
    found = outputs(result.template.model, result.weights, test)
    return float(np.linalg.norm(found - want) / np.linalg.norm(want - want.mean()))


@pytest.mark.parametrize(("method", "name"), FAST)
def test_a_network_merged_with_its_permuted_copy_computes_the_same(method: str, name: str) -> None:
    assert difference(merged(method, name), name) < 1e-5


@pytest.mark.parametrize("name", ["transformers/llama.dynamo", "hand/conv_tasnet.torchscript"])
def test_without_matching_it_does_not(name: str) -> None:
    assert difference(merged("average", name), name) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_its_way_through_every_structure(method: str, name: str) -> None:
    assert difference(merged(method, name), name) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", RECTIFIED)
@pytest.mark.parametrize("method", [each for each in METHODS if each != "zipit"])
def test_weights_tell_apart_what_activations_cannot(method: str, name: str) -> None:
    assert difference(merged(method, name), name) < 1e-5


def outer_widened(result: MergeResult) -> list[str]:
    """The groups of heads or channels that have another width."""
    holding = {outer for group in result.report.groups for outer in group.varies_with}
    return [group.id for group in result.report.groups if group.id in holding and group.width > group.size]


@pytest.mark.slow  # five seconds a network; small ones are widened in tests/resizing
@pytest.mark.parametrize(
    ("name", "layers"),
    [("transformers/llama.dynamo", 3), ("transformers/gpt2.dynamo", 3), ("hand/denoiser.dynamo", 2)],
)
def test_half_of_the_heads_stay_apart(name: str, layers: int) -> None:
    result = merged("mudsc-align", name, share=0.5)
    assert len(outer_widened(result)) == layers
    assert difference(result, name) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STRUCTURES, *RECTIFIED])
def test_half_of_what_can_be_widened_stays_apart(name: str) -> None:
    assert difference(merged("mudsc-align", name, share=0.5), name) < 1e-5


def test_the_structures_are_stored() -> None:
    assert all((FOLDER / f"{name}{SUFFIX}").is_file() for name in (*STRUCTURES, *RECTIFIED))
