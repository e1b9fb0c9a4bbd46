"""Typing whole graphs: the groups of known architectures, what anchors them, and broken signatures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmerge import inspect
from onnxmerge.axes.infer import type_graph
from onnxmerge.axes.operators import OperatorSpec
from onnxmerge.model.trace import trace
from onnxmerge.pipeline.prepare import load, type_models
from onnxmerge.validation.certificate import certify
from tests.axes.typed import certified, free_axes, groups
from tests.graphs import batchnorm, build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"


@pytest.mark.smoke
def test_mlp_has_one_group_of_hidden_units() -> None:
    found = certified(build(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3))))
    assert groups(found) == {(5, (), frozenset({("w1", 0), ("b1", 0), ("w2", 0)}))}
    assert {(f.initializer, f.axis) for f in found.fixed} == {("w1", 1), ("w2", 1)}


def test_residual_stream_is_one_group() -> None:
    graph = """(float[n,3,8,8] x) => (float[n,2] y) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        b = Conv<pads=[1,1,1,1]>(a, w1)
        c = BatchNormalization(b, n_scale, n_bias, n_mean, n_var)
        d = Relu(c)
        e = Conv<pads=[1,1,1,1]>(d, w2)
        f = Add(a, e)
        g = GlobalAveragePool(f)
        h = Flatten(g)
        y = Gemm(h, w3)
    }"""
    weights = {**normal(w0=(4, 3, 3, 3), w1=(6, 4, 3, 3), w2=(4, 6, 3, 3), w3=(4, 2)), **batchnorm("n", 6)}
    found = certified(build(graph, weights))
    stream = frozenset({("w0", 0), ("w1", 1), ("w2", 0), ("w3", 0)})
    inner = frozenset({("w1", 0), ("w2", 1), *((f"n_{name}", 0) for name in ("scale", "bias", "mean", "var"))})
    assert groups(found) == {(4, (), stream), (6, (), inner)}
    assert found.prepared.typing.statistics == {"n_mean", "n_var"}


def test_a_uniform_tensor_shared_by_two_layers_ties_nothing() -> None:
    graph = """(float[n,4] x) => (float[n,2] y) {
        a = MatMul(x, w1) b = Add(a, ones) c = Relu(b) d = MatMul(c, w2) e = Mul(d, ones) y = MatMul(e, w3)
    }"""
    weights = {**normal(w1=(4, 6), w2=(6, 6), w3=(6, 2)), "ones": np.ones(6, np.float32)}
    assert len(certified(build(graph, weights)).groups) == 2


def test_a_learned_tensor_shared_by_two_layers_ties_them() -> None:
    graph = """(float[n,4] x) => (float[n,2] y) {
        a = MatMul(x, w1) b = Add(a, bias) c = Relu(b) d = MatMul(c, w2) e = Add(d, bias) y = MatMul(e, w3)
    }"""
    assert len(certified(build(graph, normal(w1=(4, 6), w2=(6, 6), w3=(6, 2), bias=(6,)))).groups) == 1


def test_a_table_that_all_models_share_fixes_the_axis_it_multiplies() -> None:
    graph = "(float[n,4] x) => (float[n,2] y) { a = MatMul(x, w1) b = Mul(a, table) c = Relu(b) y = MatMul(c, w2) }"
    models = [build(graph, {**normal(w1=(4, 6), w2=(6, 2), seed=s), **normal(table=(6,), seed=9)}) for s in (1, 2)]
    alone, paired = load(models[:1]), load(models)
    assert any(space.free for space in type_models(alone, None, None).typing.spaces.values())
    spaces = type_models(paired, None, None).typing.spaces.values()
    assert not any(space.free for space in spaces)
    assert any("same in all models" in (space.fixed or "") for space in spaces)


def test_a_copy_of_a_model_says_nothing_of_what_all_models_share() -> None:
    graph = "(float[n,4] x) => (int64[n,1] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) y = ArgMax<axis=1>(c) }"
    model = build(graph, normal(w1=(4, 6), w2=(6, 2)))
    alone, twice = (type_models(load(models), None, None) for models in ([model], [model, model]))
    assert twice.typing.spaces == alone.typing.spaces
    assert twice.certify(1, seed=0, provider="cpu").passed  # by the tensor in front of ArgMax


def test_an_operator_that_nobody_described_is_frozen_and_named() -> None:
    graph = "(float[n,4] x) => (float[n,2] y) { a = MatMul(x, w1) b = Det(cube) c = Add(a, b) y = MatMul(c, w2) }"
    weights = normal(w1=(4, 6), w2=(6, 2), cube=(3, 3))
    network = load([build(graph, weights, check=False)])
    found = trace(network.template)
    typing = type_graph(network.template, found, network.weights, {("", "Det"): ()})
    assert [s.fixed for s in typing.spaces.values() if s.fixed and "is not described" in s.fixed]


def test_a_broken_signature_fails_the_certificate_and_names_the_operator() -> None:
    graph = """(float[n,3,4,4] x) => (float[n,2,4,4] y) {
        a = Conv(x, w1) b = LRN<size=3>(a) y = Conv(b, w2)
    }"""
    models = load([build(graph, {k: 5 * v for k, v in normal(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1)).items()})])
    found = trace(models.template)
    right = type_graph(models.template, found, models.weights)
    assert certify(right, found).max_absolute_error == 0
    broken = type_graph(models.template, found, models.weights, {("", "LRN"): (OperatorSpec("LRN", elementwise=True),)})
    certificate = certify(broken, found)
    assert not certificate.passed
    assert "LRN" in (certificate.failure or "")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("mnist-mlp/a.onnx", [(1024, 0)] * 3),
        *(
            (f"cifar5-resnet20/a{kind}.onnx", [(32, 0)] * 4 + [(64, 0)] * 4 + [(128, 0)] * 4)
            for kind in ("", ".folded")
        ),
        *(
            (f"cifar5-resnet20gn/a{kind}.onnx", [(8, 0)] * 12 + [(4, 1)] * 4 + [(8, 1)] * 4 + [(16, 1)] * 4)
            for kind in ("", ".ts")
        ),
        *((f"cifar5-vit/a{kind}.onnx", [(128, 0)] + [(4, 0), (32, 1), (32, 1), (512, 0)] * 4) for kind in ("", ".ts")),
    ],
)
def test_groups_of_the_shared_pairs(shared: Path, file: str, expected: list[tuple[int, int]]) -> None:
    found = inspect(shared / "pairs" / file, certify=True)
    assert sorted((g.size, len(g.varies_with)) for g in found.groups) == sorted(expected)
    assert found.certificate is not None
    assert found.certificate.passed
    assert found.certificate.max_relative_error < 1e-4
    assert found.coverage.free_elements > 0.99


def test_heads_are_one_group_for_q_k_v_and_the_projection(shared: Path) -> None:
    found = inspect(shared / "pairs/cifar5-vit/a.onnx")
    heads = [g for g in found.groups if g.size == 4]
    assert len(heads) == 4
    for group in heads:
        assert len(group.initializers) == 3
        assert sum(name.endswith("qkv.bias") for name in (p.name for p in group.initializers)) == 1
    assert ("cls_token", 2) in free_axes(found)
    assert ("pos_embed", 2) in free_axes(found)


@pytest.mark.parametrize(
    "take",
    [
        "s = Shape<start=1,end=2>(x) p = Slice(pos, zero, s, zero)",
        "s = Shape<start=1,end=2>(x) e = Squeeze(s) i = Range(start, e, step) p = Gather(pos, i)",
    ],
)
def test_positions_that_only_a_longer_input_takes_are_not_apart_from_the_others(take: str) -> None:
    """A table of 40 positions of which this sample takes 16: the other rows belong to the same hidden units."""
    graph = f"""(float[n,t,4] x) => (float[n,t,2] y) {{
        a = MatMul(x, w1) {take} b = Add(a, p) c = Relu(b) y = MatMul(c, w2)
    }}"""
    constants = {"zero": np.array([0]), "start": np.array(0), "step": np.array(1)}
    found = certified(build(graph, {**normal(w1=(4, 5), pos=(40, 5), w2=(5, 2)), **constants}, check=False))
    assert groups(found) == {(5, (), frozenset({("w1", 1), ("pos", 1), ("w2", 0)}))}
