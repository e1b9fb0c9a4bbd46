"""What training a merged network further needs of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmerge.errors import InputError
from onnxmerge.model.pair import pair
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from onnxmerge.model.training import declaring_moments, own_parameters, require_evaluating, roles_of


def network(nodes: list[onnx.NodeProto], weights: Mapping[str, Any]) -> onnx.ModelProto:
    """A model from x [n, 4] to y [n, 4]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    stored = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_norms(seed: int) -> onnx.ModelProto:
    """Two BatchNormalizations of x, added: their biases are equal, and stored once."""
    rng = np.random.default_rng(seed)
    names = [f"{norm}.{each}" for norm in "ab" for each in ("scale", "mean", "var")]
    weights = {name: rng.uniform(0.5, 1.5, 4) for name in (*names, "a.bias")} | {"two": np.full(4, 2.0)}
    a, b = ([f"{norm}.{each}" for each in ("scale", "bias", "mean", "var")] for norm in "ab")
    nodes = [
        helper.make_node("Identity", ["a.bias"], ["b.bias"]),
        helper.make_node("BatchNormalization", ["x", *a], ["p"]),
        helper.make_node("BatchNormalization", ["x", *b], ["q"]),
        helper.make_node("Add", ["p", "q"], ["r"]),
        helper.make_node("Mul", ["r", "two"], ["y"]),
    ]
    return network(nodes, weights)


def test_a_parameter_that_was_stored_once_for_two_is_two_again() -> None:
    before = read_network(two_norms(0))
    after = own_parameters(before)
    assert "b.bias" not in before.weights
    assert np.array_equal(after.weights["b.bias"], after.weights["a.bias"])
    assert "Identity" not in [node.op_type for node in after.graph]
    feed = {"x": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)}
    one, other = (open_session(each.model, weights=each.weights).run(feed)["y"] for each in (before, after))
    assert np.array_equal(one, other)


def test_a_tensor_that_is_read_twice_as_it_is_stays_one() -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "w"], ["y"])]
    assert [*own_parameters(read_network(network(nodes, {"w": np.ones(4)}))).weights] == ["w"]


def test_roles_are_told_by_what_parents_learned() -> None:
    models = pair([own_parameters(read_network(two_norms(seed))) for seed in (0, 1)])
    roles = roles_of(models, models.weights[0])
    assert sorted(roles.learned) == ["a.bias", "a.scale", "b.bias", "b.scale"]
    assert sorted(roles.statistics) == ["a.mean", "a.var", "b.mean", "b.var"]
    assert roles.fixed == ("two",)
    assert json.loads(roles.text()) == {name: [*getattr(roles, name)] for name in ("learned", "statistics", "fixed")}


def test_what_only_the_merge_changed_was_learned_too() -> None:
    models = pair([read_network(two_norms(0)), read_network(two_norms(0))])
    merged = {**models.weights[0], "two": np.full(4, 3.0, np.float32)}
    assert roles_of(models, merged).learned == ("two",)


@pytest.mark.parametrize("outputs", [["y"], ["y", "m"], ["y", "", "d"]])
def test_layer_normalisation_declares_its_moments(outputs: list[str]) -> None:
    node = helper.make_node("LayerNormalization", ["x", "scale"], outputs)
    before = read_network(network([node], {"scale": np.ones(4)}))
    after = declaring_moments(before)
    names = [value.name for value in after.graph[0].outputs]
    assert all(names)
    assert len({*names}) == 3
    feed = {"x": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)}
    one, other = (open_session(each.model, weights=each.weights).run(feed)["y"] for each in (before, after))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Dropout", ["x", "half", "on"], ["y"], name="drop"),
        helper.make_node(
            "BatchNormalization", ["x", *["half4"] * 4], ["y", "mean", "var"], name="drop", training_mode=1
        ),
    ],
)
def test_a_network_in_training_mode_is_refused(node: onnx.NodeProto) -> None:
    model = network([node], {"half4": np.full(4, 0.5)})
    if node.op_type == "Dropout":
        del model.graph.initializer[:]
        given = {"half": np.full((), 0.5, np.float32), "on": np.ones((), bool)}
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in given.items())
    with pytest.raises(InputError, match=r"node 'drop' .* is in training mode"):
        require_evaluating(read_network(model))
