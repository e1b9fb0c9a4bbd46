"""Least squares after matching: what is exact stays exact, and what disagrees is reconstructed better."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.activations.segments import Relay, Segment
from onnxmerge.axes.infer import type_graph
from onnxmerge.errors import InputError
from onnxmerge.merging.closed_form import aims
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.targets import LayerTarget, Settling, plan_targets
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.methods.least_squares import least_squares
from onnxmerge.merging.skewness import is_direction
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.trace import trace
from onnxmerge.types import Positions
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import invert, random_permutations, transported
from tests.graphs import batchnorm, normal
from tests.merging.networks import FOLDED, KEPT, Source, images, models, network, residual, values

Weights = Mapping[str, NDArray[Any]]

ATTENTION = """(float[n,5,8] x) => (float[n,5,8] y) {
    qkv = MatMul(x, w)
    b = Add(qkv, wb)
    q, k, v = Split<axis=2, num_outputs=3>(b)
    qs = Reshape(q, split)
    ks = Reshape(k, split)
    vs = Reshape(v, split)
    qh = Transpose<perm=[0,2,1,3]>(qs)
    kh = Transpose<perm=[0,2,3,1]>(ks)
    vh = Transpose<perm=[0,2,1,3]>(vs)
    s = MatMul(qh, kh)
    a = Softmax<axis=3>(s)
    o = MatMul(a, vh)
    ot = Transpose<perm=[0,2,1,3]>(o)
    f = Reshape(ot, join)
    p = MatMul(f, u)
    r = Add(p, x)
    y = MatMul(r, h)
}"""


def attention(seed: int = 0) -> Network:
    shapes = normal(w=(8, 24), wb=(24,), u=(8, 8), h=(8, 8), seed=seed, scale=0.5)
    return network(ATTENTION, {**shapes, "split": np.array([0, 0, 2, 4]), "join": np.array([0, 0, 8])})


def typed(net: Network) -> Typing:
    found = trace(net)
    return type_graph(net, found, (net.weights,))


def refined(
    sets: ModelSet,
    typing: Typing,
    perms: Sequence[Mapping[str, Positions]],
    source: Source,
    directions: tuple[str, ...] = (),
    memory: int = 1 << 30,
) -> tuple[Weights, Weights]:
    """The matched average, and that average refined."""
    average = dict(combine(sets, typing, [dict(each) for each in perms]))
    context = MergeContext(sets, typing, trace(sets.template).dtypes, average, source, memory=memory)
    found = least_squares(replace(context, directions=directions), perms)
    assert not found.notes
    return average, ChainMap(found.weights, average)


def error(net: Network, weights: Weights, parents: Sequence[Weights], feed: Weights) -> float:
    """How far the output is from the parents' mean."""
    aim = np.mean([values(net.model, own, ["y"], feed)["y"] for own in parents], axis=0)
    return float(np.square(values(net.model, weights, ["y"], feed)["y"] - aim).mean())


@pytest.mark.parametrize("text", [FOLDED, KEPT])
@pytest.mark.parametrize("permuted", [0, 1])
def test_a_model_merged_with_itself_stays_itself(text: str, permuted: int) -> None:
    net, source = residual(text), images(120, 40)
    typing = typed(net)
    perms = random_permutations(typing.spaces, 3) if permuted else {}
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    sets = ModelSet(net, (net.weights, copy), (net, net))
    _, weights = refined(sets, typing, [perms], source)
    feed = images(30, 30, seed=5).feeds[0]
    before, after = (values(net.model, own, ["d", "y"], feed) for own in (net.weights, weights))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-3, atol=1e-3 * np.abs(value).max())


def test_heads_are_aligned_in_a_fused_projection() -> None:
    net = attention()
    typing = typed(net)
    perms = random_permutations(typing.spaces, 1)
    assert any(space.varies_with for space in typing.spaces.values())
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    sets = ModelSet(net, (net.weights, copy), (net, net))
    x = np.random.default_rng(0).normal(size=(60, 5, 8)).astype(np.float32)
    _, weights = refined(sets, typing, [perms], Source([{"x": x}]))
    for name, value in net.weights.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("text", [FOLDED, KEPT])
def test_the_parents_mean_is_reconstructed_better(text: str) -> None:
    sets = models(residual(text), residual(text, seed=9))
    net = sets.template
    average, weights = refined(sets, typed(net), [{}], images(300, 50))
    feed = images(100, 100, seed=5).feeds[0]
    assert error(net, weights, sets.weights, feed) < 0.5 * error(net, average, sets.weights, feed)


def test_a_layer_on_a_stream_makes_up_for_the_merged_shortcut() -> None:
    """The shortcut of the average is wrong; the branch is solved so that the sum is right."""
    text = "(float[n,6] x) => (float[n,6] y) { b = MatMul(x, v)  c = Add(b, vb)  y = Add(c, x) }"
    nets = [network(text, normal(v=(6, 6), vb=(6,), seed=seed)) for seed in (0, 1)]
    (target,), _ = plan_targets(nets[0].graph, typed(nets[0]))
    assert isinstance(target, LayerTarget)
    assert (target.tensor, target.shortcut, target.last) == ("y", "x", True)
    x = np.random.default_rng(0).normal(1, 2, (200, 6)).astype(np.float32)
    wrong = {"v": np.zeros((6, 6), np.float32), "vb": np.zeros(6, np.float32)}
    typing = typed(nets[0])
    found = least_squares(MergeContext(models(*nets), typing, trace(nets[0]).dtypes, wrong, Source([{"x": x}])), [{}])
    y = x @ found.weights["v"] + found.weights["vb"] + x
    parents = [values(net.model, {}, ["y"], {"x": x})["y"] for net in nets]
    aim = np.mean(parents, axis=0)
    np.testing.assert_allclose(y.mean(axis=0), aim.mean(axis=0), rtol=1e-2, atol=1e-2)
    deviation = np.mean([parent.std(axis=0) for parent in parents], axis=0)
    np.testing.assert_allclose(y.std(axis=0), deviation, rtol=1e-2)
    np.testing.assert_allclose([np.corrcoef(*pair)[0, 1] for pair in zip(y.T, aim.T, strict=True)], 1, atol=1e-3)


def test_of_two_layers_in_one_add_the_wider_comes_last() -> None:
    text = """(float[n,4,6,6] x) => (float[n,3] y) {
        b = Conv<pads=[1,1,1,1]>(x, w1)  c = Conv(x, w2)  d = Add(b, c)  r = Relu(d)
        g = GlobalAveragePool(r)  f = Flatten(g)  y = MatMul(f, h) }"""
    net = network(text, normal(w1=(5, 4, 3, 3), w2=(5, 4, 1, 1), h=(5, 3)))
    targets, _ = plan_targets(net.graph, typed(net))
    assert [
        (target.output, target.tensor, target.shortcut) for target in targets if isinstance(target, LayerTarget)
    ] == [
        ("c", "c", None),
        ("b", "d", "c"),
        ("y", "y", None),
    ]


def test_two_batchnorms_may_share_a_bias() -> None:
    """As where their outputs are added: a model stays itself, whatever length its units have in the prior."""
    text = """(float[n,3,5,5] x) => (float[n,4] y) {
        a = Conv(x, w1)  d = BatchNormalization(a, n_scale, n_bias, n_mean, n_var)
        b = Conv(x, w2)  e = BatchNormalization(b, o_scale, n_bias, o_mean, o_var)
        s = Add(d, e)  r = Relu(s)  g = GlobalAveragePool(r)  f = Flatten(g)  y = MatMul(f, h) }"""

    norms = {**batchnorm("n", 6), **batchnorm("o", 6, seed=5)}
    del norms["o_bias"]
    net = network(text, {**normal(w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), h=(6, 4)), **norms})
    typing, source = typed(net), images(200, 50)
    steps, notes = plan_targets(net.graph, typing)
    assert [target.norm.shared for target in steps if isinstance(target, LayerTarget) and target.norm] == [True, True]
    assert not notes
    average = {name: 0.5 * array if name in ("w1", "w2") else array for name, array in net.weights.items()}
    context = MergeContext(models(net, net), typing, trace(net).dtypes, average, source)
    found = least_squares(context, [{}]).weights
    feed = images(60, 60, seed=5).feeds[0]
    assert error(net, {**average, **found}, [net.weights], feed) < 1e-6
    assert not np.array_equal(found["n_mean"], net.weights["n_mean"])


def test_a_batchnorm_of_its_own_is_settled() -> None:
    text = """(float[n,3,5,5] x) => (float[n,4] y) {
        a = Conv(x, w)  r = Relu(a)
        p = BatchNormalization(r, n_scale, n_bias, n_mean, n_var)
        g = GlobalAveragePool(p)  f = Flatten(g)  y = MatMul(f, h) }"""
    nets = [
        network(text, {**normal(w=(6, 3, 1, 1), h=(6, 4), seed=seed), **batchnorm("n", 6, seed=seed)})
        for seed in (0, 1)
    ]
    steps, _ = plan_targets(nets[0].graph, typed(nets[0]))
    assert [isinstance(step, Settling) for step in steps] == [False, True, False]
    source = images(200, 50)
    _, weights = refined(models(*nets), typed(nets[0]), [{}], source)
    x = np.concatenate([feed["x"] for feed in source.feeds])
    r = values(nets[0].model, weights, ["r"], {"x": x})["r"]
    np.testing.assert_allclose(weights["n_mean"], r.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(weights["n_var"], r.var(axis=(0, 2, 3)), rtol=1e-3)


def test_the_result_does_not_depend_on_what_is_kept() -> None:
    sets, source = models(residual(), residual(seed=9)), images(120, 40)
    typing = typed(sets.template)
    _, kept = refined(sets, typing, [{}], source)
    _, rerun = refined(sets, typing, [{}], source, memory=0)
    for name, value in kept.items():
        np.testing.assert_allclose(rerun[name], value, rtol=1e-3, atol=1e-4)


def test_batches_of_one_sample_are_enough() -> None:
    sets, source = models(residual(), residual(seed=9)), images(40, 1)
    average, weights = refined(sets, typed(sets.template), [{}], source)
    feed = images(100, 100, seed=5).feeds[0]
    net = sets.template
    assert error(net, weights, sets.weights, feed) < error(net, average, sets.weights, feed)


def test_directions_count_parents_alike() -> None:
    """With one parent's output ten times as long, its numbers are followed and directions are not."""
    text = "(float[n,20] x) => (float[n,20] y) { y = MatMul(x, w) }"
    one, other = (normal(w=(20, 20), seed=seed)["w"] for seed in (0, 1))
    sets = models(network(text, {"w": one}), network(text, {"w": 10 * other}))
    x = np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32)
    cosines = {}
    for kind, directions in (("numbers", ()), ("directions", ("y",))):
        _, weights = refined(sets, typed(sets.template), [{}], Source([{"x": x}]), directions)
        y, a = x @ weights["w"], x @ one
        cosines[kind] = np.mean((y * a).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(a, axis=1))
    assert cosines["numbers"] < 0.3
    assert cosines["directions"] > 0.6


@pytest.mark.parametrize("text", [KEPT, FOLDED])
@pytest.mark.parametrize(("size", "runs"), [(1, 6), (1 << 26, 2)])
def test_parents_run_past_many_layers_at_once_to_the_same_result(
    text: str, size: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, segments = models(residual(text), residual(text, seed=9)), list[Sequence[str]]()
    typing = typed(sets.template)
    _, whole = refined(sets, typing, [{}], images(60, 20))

    class Counted(Relay):
        def segment(self, wanted: Sequence[str], frontier: Sequence[str]) -> Segment:
            segments.append(wanted)
            return super().segment(wanted, frontier)

    monkeypatch.setattr(aims, "Relay", Counted)
    monkeypatch.setattr(aims, "STRETCH", size)
    _, cut = refined(sets, typing, [{}], images(60, 20))
    assert len(segments) == runs
    for name, array in whole.items():
        np.testing.assert_allclose(cut[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_samples_that_grow_longer_than_the_traced_are_allowed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """(float[n,t,8] x) => (float[n,t,8] y) {
        a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) d = Relu(c) y = MatMul(d, w) }"""
    one, other = (network(text, normal(u=(8, 8), v=(8, 8), w=(8, 8), seed=seed)) for seed in (0, 1))
    sets, segments = models(one, other), list[Sequence[str]]()
    found = trace(one, {"x": np.ones((2, 4, 8), np.float32)})
    typing = type_graph(one, found, (one.weights,))

    class Counted(Relay):
        def segment(self, wanted: Sequence[str], frontier: Sequence[str]) -> Segment:
            segments.append(wanted)
            return super().segment(wanted, frontier)

    monkeypatch.setattr(aims, "Relay", Counted)
    monkeypatch.setattr(aims, "STRETCH", 4 * 8 * 20 * 100)  # of one layer on the longest batch, more than of two
    average = dict(combine(sets, typing, [{}]))
    for length, expected in ((4, 2), (100, 6)):
        feeds = [{"x": np.random.default_rng(0).normal(size=(20, size, 8)).astype(np.float32)} for size in (4, length)]
        context = MergeContext(sets, typing, found.dtypes, average, Source(feeds), traced=2, whole=True)
        segments.clear()
        least_squares(context, [{}])
        assert len(segments) == expected


@pytest.mark.parametrize("directions", [(), ("y",)])
def test_data_without_positions_is_refused(directions: Sequence[str]) -> None:
    text = "(float[n,t,8] x) => (float[n,t,8] y) { y = MatMul(x, u) }"
    sets = models(*(network(text, normal(u=(8, 8), seed=seed)) for seed in (0, 1)))
    found = trace(sets.template, {"x": np.ones((2, 4, 8), np.float32)})
    typing = type_graph(sets.template, found, (sets.template.weights,))
    average, source = dict(combine(sets, typing, [{}])), Source([{"x": np.zeros((3, 0, 8), np.float32)}])
    with pytest.raises(InputError, match="no calibration data"):
        least_squares(MergeContext(sets, typing, found.dtypes, average, source, directions=directions), [{}])


def test_embeddings_are_told_from_logits() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(10, 64))
    classes = rng.integers(0, 10, 256)
    embedding = directions[classes] + 0.3 * rng.normal(size=(256, 64))
    logits = rng.normal(size=(256, 100)) + 8 * np.eye(100)[rng.integers(0, 100, 256)]
    assert is_direction(embedding.astype(np.float32))
    assert not is_direction(logits.astype(np.float32))
    assert not is_direction(embedding[:, :4].astype(np.float32))


def test_activations_that_are_not_finite_are_refused() -> None:
    net = residual()
    bad = Source([{"x": np.full((4, 3, 5, 5), np.inf, np.float32)}])
    with pytest.raises(InputError, match="not finite"), np.errstate(all="ignore"):
        refined(models(net, net), typed(net), [{}], bad)


def test_it_needs_data() -> None:
    sets = models(residual(), residual(seed=9))
    with pytest.raises(InputError, match="no calibration data"):
        refined(sets, typed(sets.template), [{}], Source([]))
