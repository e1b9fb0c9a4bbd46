"""RegMean: against its formula, and on permuted copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.axes.infer import type_graph
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.methods import regmean as module
from onnxmerge.merging.refinements.methods.regmean import OFF_DIAGONAL, regmean
from onnxmerge.merging.refinements.methods.regmean_plus import regmean_plus
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.trace import trace
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import Permutations, invert, random_permutations, transported
from tests.graphs import normal
from tests.merging.networks import FOLDED, KEPT, Source, images, models, network, residual

Weights = Mapping[str, NDArray[Any]]

MLP = "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w, b)  r = Relu(h)  y = MatMul(r, v) }"
GROUPED = (
    "(float[n,4,6,6] x) => (float[n,4,6,6] y) { h = Conv(x, w)  r = Relu(h)  y = Conv<group=2, pads=[1,1,1,1]>(r, v) }"
)


def typed(net: Network) -> Typing:
    return type_graph(net, trace(net), (net.weights,))


def found(sets: ModelSet, source: Source, perms: Sequence[Permutations], **more: Any) -> tuple[Weights, Weights]:
    """The matched average, and the layers that RegMean changes."""
    typing = typed(sets.template)
    average = dict(combine(sets, typing, perms, weights=more.get("shares")))
    result = regmean(MergeContext(sets, typing, trace(sets.template).dtypes, average, source, **more), perms)
    assert not result.notes
    return average, result.weights


def formula(inputs: Sequence[NDArray[Any]], weights: Sequence[NDArray[Any]], shares: Sequence[float]) -> NDArray[Any]:
    """W [features, units] from each parent's rows and weight, as the paper writes it."""
    grams = []
    for x, share in zip(inputs, shares, strict=True):
        gram = x.astype(np.float64).T @ x
        grams.append(share * (OFF_DIAGONAL * gram + (1 - OFF_DIAGONAL) * np.diag(np.diag(gram))))
    return np.asarray(
        np.linalg.solve(sum(grams), sum(gram @ weight for gram, weight in zip(grams, weights, strict=True)))
    )


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2)])
def test_it_is_the_formula(shares: tuple[float, float]) -> None:
    nets = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), seed=seed)) for seed in (0, 1)]
    x = np.random.default_rng(2).normal(0.5, 1, (300, 4)).astype(np.float32)
    average, weights = found(models(*nets), Source([{"x": x[:100]}, {"x": x[100:]}]), [{}], shares=shares)
    hidden = [np.maximum(x @ net.weights["w"].T + net.weights["b"], 0) for net in nets]
    expected = formula(hidden, [net.weights["v"] for net in nets], shares)
    np.testing.assert_allclose(weights["v"], expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(weights["v"], average["v"], atol=1e-2)
    # The first layer reads the same in both parents: there it is the average.
    np.testing.assert_allclose(weights["w"], average["w"], rtol=1e-3, atol=1e-4)
    assert "b" not in weights


def test_each_parent_is_measured_on_its_own_data() -> None:
    nets = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), seed=seed)) for seed in (0, 1)]
    x = np.random.default_rng(2).normal(0.5, 1, (300, 4)).astype(np.float32)
    own = x[:100], 2 * x[100:]  # of other sizes: a parent with more data counts no more
    parts = tuple(Source([{"x": part}]) for part in own)
    _, weights = found(models(*nets), Source([{"x": x}]), [{}], own=parts)
    given = [net.weights["w"].T for net in nets]
    mean = [part / np.sqrt(len(part)) for part in own]
    np.testing.assert_allclose(weights["w"], formula(mean, given, (0.5, 0.5)).T, rtol=1e-3, atol=1e-4)
    hidden = [np.maximum(part @ net.weights["w"].T + net.weights["b"], 0) for part, net in zip(own, nets, strict=True)]
    mean = [part / np.sqrt(len(part)) for part in hidden]
    expected = formula(mean, [net.weights["v"] for net in nets], (0.5, 0.5))
    np.testing.assert_allclose(weights["v"], expected, rtol=1e-3, atol=1e-4)


def test_regmean_plus_measures_the_merged_network_layer_by_layer() -> None:
    nets = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), seed=seed)) for seed in (0, 1)]
    x = np.random.default_rng(2).normal(0.5, 1, (200, 4)).astype(np.float32)
    own = x[:100], 2 * x[100:]
    sets = models(*nets)
    average = dict(combine(sets, typed(nets[0]), [{}]))
    parts = tuple(Source([{"x": part[:60]}, {"x": part[60:]}]) for part in own)
    context = MergeContext(sets, typed(nets[0]), trace(nets[0]).dtypes, average, Source([{"x": x}]), own=parts)
    weights = regmean_plus(context, [{}]).weights
    w = formula(own, [net.weights["w"].T for net in nets], (0.5, 0.5)).T
    np.testing.assert_allclose(weights["w"], w, rtol=1e-3, atol=1e-4)
    hidden = [np.maximum(part @ w.T + average["b"], 0) for part in own]
    expected = formula(hidden, [net.weights["v"] for net in nets], (0.5, 0.5))
    np.testing.assert_allclose(weights["v"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="--calib-of"):
        regmean_plus(replace(context, own=()), [{}])
    with pytest.raises(InputError, match="no calibration data"):
        regmean_plus(replace(context, own=(parts[0], Source([]))), [{}])


@pytest.mark.parametrize("permuted", [0, 1])
def test_regmean_plus_keeps_a_model_that_is_merged_with_its_copy(permuted: int) -> None:
    net = residual(KEPT)
    typing = typed(net)
    perms = random_permutations(typing.spaces, 3) if permuted else {}
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    sets, own = ModelSet(net, (net.weights, copy), (net, net)), (images(60, 20), images(40, 20, seed=1))
    context = MergeContext(sets, typing, trace(net).dtypes, dict(combine(sets, typing, [perms])), own[0], own=own)
    weights = regmean_plus(context, [perms]).weights
    assert weights.keys() == {"w1", "w2", "w3"}
    for name, array in weights.items():
        np.testing.assert_allclose(array, net.weights[name], rtol=1e-3, atol=1e-4)


def test_groups_of_a_convolution_have_grams_of_their_own() -> None:
    nets = [network(GROUPED, normal(w=(4, 4, 1, 1), v=(4, 2, 3, 3), seed=seed)) for seed in (0, 1)]
    x = np.random.default_rng(2).normal(size=(40, 4, 6, 6)).astype(np.float32)
    _, weights = found(models(*nets), Source([{"x": x}]), [{}])
    for group in range(2):
        rows, own = [], []
        for net in nets:
            w = net.weights["w"][2 * group : 2 * group + 2, :, 0, 0]
            hidden = np.pad(np.maximum(np.einsum("ncij,uc->nuij", x, w), 0), ((0, 0), (0, 0), (1, 1), (1, 1)))
            patches = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), (2, 3))
            rows.append(patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 18))
            own.append(net.weights["v"][2 * group : 2 * group + 2].reshape(2, 18).T)
        expected = formula(rows, own, (0.5, 0.5)).T.reshape(2, 2, 3, 3)
        np.testing.assert_allclose(weights["v"][2 * group : 2 * group + 2], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", [FOLDED, KEPT])
@pytest.mark.parametrize("permuted", [0, 1])
def test_a_model_merged_with_its_copy_stays_itself(text: str, permuted: int) -> None:
    net = residual(text)
    typing = typed(net)
    perms = random_permutations(typing.spaces, 3) if permuted else {}
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    _, weights = found(ModelSet(net, (net.weights, copy), (net, net)), images(60, 20), [perms])
    assert weights.keys() == {"w1", "w2", "w3"}
    for name, array in weights.items():
        np.testing.assert_allclose(array, net.weights[name], rtol=1e-3, atol=1e-4)


def test_inputs_that_are_never_active_keep_the_average() -> None:
    bias = np.array([9, 9, -1000, 9, 9], np.float32)
    nets = [network(MLP, {**normal(w=(5, 4), v=(5, 3), seed=seed), "b": bias}) for seed in (0, 1)]
    x = np.random.default_rng(2).normal(size=(100, 4)).astype(np.float32)
    average, weights = found(models(*nets), Source([{"x": x}]), [{}])
    np.testing.assert_allclose(weights["v"][2], average["v"][2], rtol=1e-4)


def test_a_layer_that_is_too_wide_stays_the_average_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "too_wide", lambda target: target.features > 4)
    nets = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), seed=seed)) for seed in (0, 1)]
    sets, typing = models(*nets), typed(nets[0])
    x = np.zeros((8, 4), np.float32)
    average = dict(combine(sets, typing, [{}]))
    result = regmean(MergeContext(sets, typing, trace(nets[0]).dtypes, average, Source([{"x": x}])), [{}])
    assert result.weights.keys() == {"w"}
    assert len(result.notes) == 1


def test_it_needs_data_of_finite_numbers() -> None:
    nets = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), seed=seed)) for seed in (0, 1)]
    with pytest.raises(InputError, match="no calibration data"):
        found(models(*nets), Source([]), [{}])
    with pytest.raises(InputError, match="not finite"):
        found(models(*nets), Source([{"x": np.full((4, 4), np.inf, np.float32)}]), [{}])
