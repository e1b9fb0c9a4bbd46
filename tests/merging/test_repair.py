"""REPAIR: merged units get the mean and standard deviation of their aligned parents."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.activations.moments import measure
from onnxmerge.merging.combine import combine
from onnxmerge.merging.repair.in_graph import probe_of
from onnxmerge.merging.repair.plan import Target, Which, applies, plan_repair, targets
from onnxmerge.merging.repair.repair import repair
from onnxmerge.merging.repair.repairs import REPAIRS
from onnxmerge.model.network import Network
from onnxmerge.types import Positions
from onnxmerge.units.layout import Space, Typing
from onnxmerge.units.permutations import invert, random_permutations, transported
from tests.graphs import normal
from tests.layouts import typed
from tests.merging.networks import KEPT, Source, images, models, network, residual, residual_typing, values

TYPING = residual_typing()
Weights = Mapping[str, NDArray[Any]]


def merged(
    sets: Sequence[Weights], template: Network, source: Source, perms: Mapping[str, Positions], mode: str
) -> tuple[dict[str, Target], ChainMap[str, NDArray[Any]]]:
    """The targets, and the repaired average of two sets of weights."""
    plan = plan_repair(template.graph, TYPING)
    probes = [probe_of(template.graph, layer, TYPING) for layer in plan.layers]
    aims = targets(plan, TYPING, [measure(template.model, own, probes, source) for own in sets], [perms])
    pair = models(template, template)
    average = dict(combine(type(pair)(template, tuple(sets), pair.sources), TYPING, [perms]))
    changed = repair(template.model, TYPING, average, plan, aims, source, mode=REPAIRS[mode])
    return aims, ChainMap(changed, average)


def moments(net: Network, weights: Weights, source: Source) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    everything = {"x": np.concatenate([feed["x"] for feed in source.feeds])}
    found = values(net.model, weights, ["p", "d"], everything)
    return {name: (value.mean(axis=(0, 2, 3)), value.std(axis=(0, 2, 3))) for name, value in found.items()}


@pytest.mark.parametrize("batch", [1, 50])
def test_units_get_the_moments_of_their_parents(batch: int) -> None:
    net = residual(batch="float[1" if batch == 1 else "float[n")
    source, free = images(200, batch), residual()
    sets = [residual(seed=0).weights, residual(seed=9).weights]
    aims, weights = merged(sets, net, source, {}, "repair")
    one, other = (moments(free, each, source) for each in sets)
    for tensor, (mean, std) in moments(free, weights, source).items():
        np.testing.assert_allclose(mean, (one[tensor][0] + other[tensor][0]) / 2, rtol=1e-2, atol=2e-2)
        np.testing.assert_allclose(std, (one[tensor][1] + other[tensor][1]) / 2, rtol=1e-2)
        np.testing.assert_allclose(aims[tensor].std, std, rtol=1e-2)


def test_rescale_sets_the_deviation_alone() -> None:
    source, net = images(100, 100), residual()
    sets = [net.weights, residual(seed=9).weights]
    aims, weights = merged(sets, net, source, {}, "rescale")
    plain = combine(models(net, residual(seed=9)), TYPING, [{}])
    found, before = moments(net, weights, source), moments(net, plain, source)
    np.testing.assert_allclose(found["p"][1], aims["p"].std, rtol=1e-3)
    np.testing.assert_allclose(found["p"][0], before["p"][0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["d"][1], aims["d"].std, rtol=1e-3)


def test_bias_only_sets_the_mean_alone() -> None:
    net, other = residual(), residual(seed=9)
    plain = combine(models(net, other), TYPING, [{}])
    for batch in (1, 100):
        source = images(100, batch)
        aims, weights = merged([net.weights, other.weights], residual(batch=f"float[{batch}"), source, {}, "bias")
        found = moments(net, weights, source)
        np.testing.assert_allclose(found["p"][0], aims["p"].mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["d"][0], aims["d"].mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["p"][1], moments(net, plain, source)["p"][1], rtol=1e-3)
        np.testing.assert_array_equal(weights["w1"], plain["w1"])


def test_a_permuted_copy_needs_no_repair() -> None:
    """Targets are aligned: a model merged with a permuted copy of itself comes back."""
    source, net = images(100, 100), residual()
    perms = random_permutations(TYPING.spaces, 3)
    copy = dict(transported(net.weights, TYPING, invert(perms, TYPING.spaces)))
    _, weights = merged([net.weights, copy], net, source, perms, "repair")
    for name in net.weights:
        np.testing.assert_allclose(weights[name], net.weights[name], rtol=1e-3, atol=1e-4)


def test_a_dead_unit_is_shifted_not_blown_up() -> None:
    net = residual()
    dead = dict(net.weights)
    dead["w1"] = dead["w1"].copy()
    dead["w1"][2] = 0
    plan = plan_repair(net.graph, TYPING)
    aims = {layer.output: Target(np.full(6, 3.0), np.full(6, 2.0)) for layer in plan.layers}
    changed = repair(net.model, TYPING, dead, plan, aims, images(100, 100))
    assert np.all(changed["w1"][2] == 0)
    np.testing.assert_allclose(changed["b1"][2], 3.0, rtol=1e-5)
    assert all(np.isfinite(array).all() for array in changed.values())


def test_a_dead_unit_wakes_nothing_behind_it_while_statistics_settle() -> None:
    """In the running network as in the weights: its rounding must not be blown up into a signal for what follows."""
    net = network(
        "(float[n,4] x) => (float[n,3] y) { h = Gemm(x, w1, b1) d = Gemm(h, w2, b2) y = MatMul(d, w3) }",
        normal(w1=(4, 5), b1=(5,), w2=(5, 6), b2=(6,), w3=(6, 3)),
    )
    layouts = {"w1": ["4", "h"], "b1": ["h"], "w2": ["h", "d"], "b2": ["d"], "w3": ["d", "3"]}
    typing = typed([Space("h", 5), Space("d", 6)], layouts, {"h": ["2", "h"], "d": ["2", "d"], "y": ["2", "3"]})
    nearly = dict(net.weights)
    nearly["w1"], nearly["b1"] = nearly["w1"].copy(), nearly["b1"].copy()
    nearly["w1"][:, 2] *= 1e-9
    nearly["b1"][2] = 0
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    aims = {"h": Target(np.zeros(5), np.full(5, 2.0)), "d": Target(np.zeros(6), np.full(6, 2.0))}
    changed = repair(net.model, typing, nearly, plan_repair(net.graph, typing), aims, Source([{"x": x}]))
    found = values(net.model, {**nearly, **changed}, ["h", "d"], {"x": x})
    assert found["h"].std(axis=0)[2] < 1e-6
    np.testing.assert_allclose(np.delete(found["h"].std(axis=0), 2), 2.0, rtol=1e-3)
    np.testing.assert_allclose(found["d"].std(axis=0), 2.0, rtol=1e-3)


def test_units_that_are_constant_in_the_parents_keep_their_weights() -> None:
    net = residual()
    plan = plan_repair(net.graph, TYPING)
    aims = {layer.output: Target(np.full(6, 3.0), np.where(np.arange(6) == 2, 0.0, 2.0)) for layer in plan.layers}
    changed = repair(net.model, TYPING, net.weights, plan, aims, images(100, 100))
    np.testing.assert_array_equal(changed["w1"][2], net.weights["w1"][2])
    assert not np.array_equal(changed["w1"][1], net.weights["w1"][1])


def test_layers_without_a_bias_are_rescaled() -> None:
    net = network(
        "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }",
        normal(w=(4, 5), v=(5, 3)),
    )
    typing = typed([Space("h", 5)], {"w": ["4", "h"], "v": ["h", "3"]}, {"h": ["2", "h"], "y": ["2", "3"]})
    plan = plan_repair(net.graph, typing)
    assert [layer.output for layer in plan.layers] == ["h"]
    assert not applies(net.graph, typing)
    x = np.random.default_rng(0).normal(1, 1, (100, 4)).astype(np.float32)
    aims = {"h": Target(np.zeros(5), np.full(5, 2.0))}
    changed = repair(net.model, typing, net.weights, plan, aims, Source([{"x": x}]))
    h = values(net.model, {**net.weights, **changed}, ["h"], {"x": x})["h"]
    np.testing.assert_allclose(h.std(axis=0), 2.0, rtol=1e-4)


def test_units_that_stand_on_two_axes_are_left_alone() -> None:
    """A product of an identity matrix (a Jacobian, say) has the units of its input in its rows and in its columns."""
    net = network("(float[5,5] x) => (float[5,5] y) { h = MatMul(x, w) y = MatMul(h, v) }", normal(w=(5, 5), v=(5, 5)))
    layouts = {"w": ["u", "u"], "v": ["u", "5"]}
    plan = plan_repair(net.graph, typed([Space("u", 5)], layouts, {"h": ["u", "u"], "y": ["u", "5"]}), "free")
    assert plan.layers == ()
    assert any("units of h do not stand in one grid" in note for note in plan.notes)


def test_inner_units_that_vary_with_an_outer_space_are_aligned() -> None:
    spaces = [Space("g", 2), Space("i", 3, ("g",))]
    typing = typed(spaces, {"w": ["4", "g i"], "b": ["g i"], "v": ["g i", "4"]}, {"x": ["2", "4"], "h": ["2", "g i"]})
    text = "(float[n,4] x) => (float[n,4] y) { h = Gemm(x, w, b)  r = Relu(h)  y = MatMul(r, v) }"
    net = network(text, normal(w=(4, 6), b=(6,), v=(6, 4)))
    perms = random_permutations(typing.spaces, 1)
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    plan = plan_repair(net.graph, typing)
    probes = [probe_of(net.graph, layer, typing) for layer in plan.layers]
    moments = [measure(net.model, own, probes, [{"x": x}]) for own in (net.weights, copy)]
    h = values(net.model, net.weights, ["h"], {"x": x})["h"]
    aims = targets(plan, typing, moments, [perms])["h"]
    np.testing.assert_allclose(aims.mean, h.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(aims.std, h.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize(("which", "outputs"), [("free", ["p", "d"]), ("fixed", ["y"]), ("all", ["p", "d", "y"])])
def test_which_layers(which: Which, outputs: list[str]) -> None:
    assert [layer.output for layer in plan_repair(residual().graph, TYPING, which).layers] == outputs


def test_where_it_applies() -> None:
    assert applies(residual().graph, TYPING)
    assert not applies(residual(KEPT).graph, TYPING)
    fixed = Typing(
        {name: Space(name, space.size, (), "fixed") for name, space in TYPING.spaces.items()},
        TYPING.initializers,
        TYPING.activations,
    )
    assert not applies(residual().graph, fixed)
