"""FeatCal: against its formula, on permuted copies, and after a method for task vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.axes.infer import type_graph
from onnxmerge.errors import InputError
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.methods.featcal import FeatCalOptions, featcal
from onnxmerge.model.network import ModelSet
from onnxmerge.model.trace import trace
from onnxmerge.units.permutations import Permutations, invert, random_permutations, transported
from tests.graphs import normal
from tests.merging.networks import FOLDED, KEPT, Source, images, models, network, residual

MLP = "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w, b)  r = Relu(h)  y = Gemm(r, v, c) }"
PAIR = [network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), c=(3,), seed=seed)) for seed in (0, 1)]
X = np.random.default_rng(2).normal(0.5, 1, (300, 4)).astype(np.float32)


def found(
    sets: ModelSet, source: Source, perms: Sequence[Permutations], options: FeatCalOptions, **more: Any
) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
    """The matched average, and what FeatCal changes of it."""
    typing = type_graph(sets.template, trace(sets.template), (sets.template.weights,))
    average = dict(combine(sets, typing, perms, weights=more.get("shares")))
    context = MergeContext(sets, typing, trace(sets.template).dtypes, average, source, **more)
    return average, featcal(context, perms, options).weights


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2)])
@pytest.mark.parametrize(("own_input", "pull"), [(0.0, 1.0), (0.25, 0.3), (1.0, 1e-3)])
def test_it_is_the_formula(shares: tuple[float, float], own_input: float, pull: float) -> None:
    options = FeatCalOptions(own_input=own_input, pull=pull)
    average, weights = found(models(*PAIR), Source([{"x": X[:100]}, {"x": X[100:]}]), [{}], options, shares=shares)

    def solved(merged: NDArray[Any], own: Sequence[NDArray[Any]], names: tuple[str, str], turn: bool) -> Any:  # noqa: FBT001
        """Weight [u, d] and bias by the paper's sums over parents, centred."""
        w0 = average[names[0]].T if turn else average[names[0]]
        centre = merged - merged.mean(axis=0)
        s, right, at = centre.T @ centre / len(merged), np.zeros_like(w0.T, np.float64), np.zeros(len(w0))
        norm = np.linalg.norm(s)
        for share, net, x in zip(shares, PAIR, own, strict=True):
            w = net.weights[names[0]].T if turn else net.weights[names[0]]
            mixed = own_input * x + (1 - own_input) * merged
            right += 2 * share * centre.T @ (mixed - mixed.mean(axis=0)) / len(merged) @ w.T / norm
            at += share * (mixed.mean(axis=0) @ w.T + net.weights[names[1]])
        left = 2 * s / norm + pull * np.eye(len(s))
        w = np.linalg.solve(left, right + pull * w0.T).T
        return (w.T if turn else w), at - w @ merged.mean(axis=0)

    x = X.astype(np.float64)
    w, b = solved(x, [x, x], ("w", "b"), turn=False)
    np.testing.assert_allclose(weights["w"], w, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights["b"], b, rtol=1e-3, atol=1e-4)
    hidden = np.maximum(x @ w.T + b, 0)
    v, c = solved(hidden, [np.maximum(x @ n.weights["w"].T + n.weights["b"], 0) for n in PAIR], ("v", "c"), turn=True)
    np.testing.assert_allclose(weights["v"], v, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(weights["c"], c, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("options", [FeatCalOptions(), FeatCalOptions(own_input=1.0, pull=0.3, moved=1.0)])
def test_each_parent_answers_to_its_own_data(options: FeatCalOptions) -> None:
    """The published formula: each parent's covariance over its norm, pulled to what is moved away from the base."""
    own, base = (X[:100], 3 * X[100:]), network(MLP, normal(w=(5, 4), b=(5,), v=(5, 3), c=(3,), seed=5)).weights
    parts = tuple(Source([{"x": part[:50]}, {"x": part[50:]}]) for part in own)
    average, weights = found(models(*PAIR), Source([{"x": X}]), [{}], options, own=parts, base=base)
    pull, moved = (0.05, 2.2) if options.pull == "auto" else (0.3, 1.0)

    def solved(read: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]], names: tuple[str, str], turn: bool) -> Any:  # noqa: FBT001
        """Weight [u, d] and bias, by rows that are weighed so that those of each parent have a covariance of norm 1."""
        w0 = (base[names[0]] + moved * (average[names[0]] - base[names[0]])).astype(np.float64)
        w0 = w0.T if turn else w0
        rows, aims, weigh = [], [], []
        for net, x, own_x in zip(PAIR, read, theirs, strict=True):
            w = net.weights[names[0]].T if turn else net.weights[names[0]]
            centre = x - x.mean(axis=0)
            rows.append(x)
            mixed = options.own_input * own_x + (1 - options.own_input) * x
            aims.append(mixed @ w.T + net.weights[names[1]])
            weigh.append(np.full(len(x), 1 / len(x) / np.linalg.norm(centre.T @ centre / len(x))))
        x, y, at = np.concatenate(rows), np.concatenate(aims), np.concatenate(weigh)[:, None]
        mean_x, mean_y = (at * x).sum(axis=0) / at.sum(), (at * y).sum(axis=0) / at.sum()
        x, y = x - mean_x, y - mean_y
        w = np.linalg.solve((at * x).T @ x + pull * np.eye(x.shape[1]), (at * x).T @ y + pull * w0.T).T
        return (w.T if turn else w), mean_y - w @ mean_x

    x = [part.astype(np.float64) for part in own]
    w, b = solved(x, x, ("w", "b"), turn=False)
    np.testing.assert_allclose(weights["w"], w, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights["b"], b, rtol=1e-3, atol=1e-4)
    hidden = [np.maximum(part @ w.T + b, 0) for part in x]
    theirs = [np.maximum(p @ n.weights["w"].T + n.weights["b"], 0) for p, n in zip(x, PAIR, strict=True)]
    v, c = solved(hidden, theirs, ("v", "c"), turn=True)
    np.testing.assert_allclose(weights["v"], v, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(weights["c"], c, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("text", [FOLDED, KEPT])
@pytest.mark.parametrize("permuted", [0, 1])
def test_a_model_merged_with_its_copy_stays_itself(text: str, permuted: int) -> None:
    net = residual(text)
    typing = type_graph(net, trace(net), (net.weights,))
    perms = random_permutations(typing.spaces, 3) if permuted else {}
    copy = dict(transported(net.weights, typing, invert(perms, typing.spaces)))
    _, weights = found(ModelSet(net, (net.weights, copy), (net, net)), images(60, 20), [perms], FeatCalOptions())
    assert {"w1", "w2", "w3"} <= weights.keys()
    for name, array in weights.items():
        np.testing.assert_allclose(array, net.weights[name], rtol=1e-4, atol=1e-5)


def test_units_that_nothing_feeds_keep_what_they_have() -> None:
    average, weights = found(models(*PAIR), Source([{"x": np.zeros((50, 4), np.float32)}]), [{}], FeatCalOptions())
    np.testing.assert_allclose(weights["w"], average["w"], rtol=1e-6)


def test_it_needs_data_of_finite_numbers() -> None:
    with pytest.raises(InputError, match="no calibration data"):
        found(models(*PAIR), Source([]), [{}], FeatCalOptions())
    with pytest.raises(InputError, match="not finite"):
        found(models(*PAIR), Source([{"x": np.full((4, 4), np.inf, np.float32)}]), [{}], FeatCalOptions())
