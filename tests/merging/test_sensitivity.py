"""Positions count by what the outputs feel of them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.activations.patches import draw
from onnxmerge.activations.segments import blocked, frontier
from onnxmerge.axes.infer import type_graph
from onnxmerge.errors import UsageError
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.sensitivity import OutputSensitivity
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_targets
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.methods.least_squares import LeastSquaresOptions, least_squares
from onnxmerge.model.network import Network
from onnxmerge.model.trace import trace
from onnxmerge.types import Floats
from tests.graphs import normal
from tests.merging.networks import Source, models, network, values

TOKENS = """(float[n,8,4] x) => (float[n,3] y) {
    a = MatMul(x, u)  b = Add(a, ub)  t = Tanh(b)  m = MatMul(t, w)  c = Add(m, wb)  r = Relu(c)
    s = Mul(r, scale)  z = ReduceSum<keepdims=0>(s, axis)  y = MatMul(z, h) }"""
"""Tokens by themselves, which the answer adds up with a ``scale`` for each."""

ONE = {"x": "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, u)  r = Relu(h)  y = MatMul(r, w) }"}
X = np.random.default_rng(0).normal(size=(400, 8, 4)).astype(np.float32)


def tokens(scale: list[float], seed: int = 0) -> Network:
    shapes = normal(u=(4, 6), ub=(6,), w=(6, 5), wb=(5,), h=(5, 3), seed=seed)
    fixed = {"scale": np.asarray(scale, np.float32)[:, None], "axis": np.array([1])}
    return network(TOKENS, {**shapes, **fixed})


def context_of(*nets: Network, x: np.ndarray = X) -> MergeContext:
    found = trace(nets[0])
    typing = type_graph(nets[0], found, (nets[0].weights,))
    sets = models(*nets)
    average = dict(combine(sets, typing, [{}] * (len(nets) - 1)))
    source = Source([{"x": x[:200]}, {"x": x[200:]}])
    return MergeContext(sets, typing, found.dtypes, average, source)


def sensitivities(context: MergeContext) -> list[Floats | None]:
    """Of each layer's target."""
    graph = context.merged.graph
    steps, _ = plan_targets(graph, context.typing)
    felt = OutputSensitivity(context)
    found = []
    for index, step in enumerate(steps):
        assert isinstance(step, LayerTarget)
        edge = frontier(graph, blocked(graph, {later.node for later in steps[index:]}))
        found.append(felt(step, edge, (0, index)))
    return found


def test_only_outputs_behind_a_layer_feel_it() -> None:
    text = """(float[n,8,4] x) => (float[n,3] y, float[n,8,5] z) {
        a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, w)  z = Identity(c)
        r = Relu(c)  s = Mul(r, scale)  t = ReduceSum<keepdims=0>(s, axis)  q = MatMul(t, h)
        p = MatMul(x, v)  k = ReduceSum<keepdims=0>(p, axis)  y = Add(q, k) }"""
    shapes = {"scale": np.eye(1, 8, dtype=np.float32).T, "axis": np.array([1])}
    nets = [network(text, {**normal(u=(4, 6), w=(6, 5), h=(5, 3), v=(4, 3), seed=seed), **shapes}) for seed in (0, 1)]
    assert len(sensitivities(context_of(*nets))) == 4


def test_positions_matter_by_what_reaches_the_output() -> None:
    scale = [5.0, 0, 1, 1, 1, 1, 0, 1]
    *hidden, last = sensitivities(context_of(tokens(scale), tokens(scale, seed=1)))
    assert last is None
    for found in hidden:
        assert found is not None
        assert np.array_equal(found == 0, np.equal(scale, 0))
        np.testing.assert_allclose(found, np.square(scale) / np.square(scale).sum(), atol=0.12)
        assert found.sum() == pytest.approx(1)


def test_positions_that_matter_alike_are_not_told_apart() -> None:
    assert sensitivities(context_of(tokens([1.0] * 8), tokens([1.0] * 8, seed=1))) == [None, None, None]


def test_what_no_output_feels_is_not_told_apart() -> None:
    assert sensitivities(context_of(tokens([0.0] * 8), tokens([0.0] * 8, seed=1))) == [None, None, None]


@pytest.mark.parametrize("sensitivity", [0.7, 1.0])
def test_the_answer_is_better_where_few_tokens_give_it(sensitivity: float) -> None:
    scale = [1.0, *[0.0] * 7]
    nets = [tokens(scale, seed=seed) for seed in (0, 1)]
    other = X.copy()
    other[:, 1:] = 3 * X[:, 1:] + 2  # what nothing reads is of another kind
    context = context_of(*nets, x=other)
    feed = {"x": other[:200]}
    aim = np.mean([values(net.model, {}, ["c"], feed)["c"][:, 0] for net in nets], axis=0)

    def error(options: LeastSquaresOptions) -> float:
        found = least_squares(context, [{}], options)
        weights = {**context.weights, **found.weights}
        return float(np.square(values(nets[0].model, weights, ["c"], feed)["c"][:, 0] - aim).mean())

    assert error(LeastSquaresOptions(sensitivity=sensitivity)) < 0.7 * error(LeastSquaresOptions(sensitivity=0.0))


def test_where_all_positions_matter_alike_nothing_changes() -> None:
    context = context_of(*(tokens([1.0] * 8, seed=seed) for seed in (0, 1)))
    found = [least_squares(context, [{}], LeastSquaresOptions(sensitivity=own)).weights for own in (0.0, 0.7)]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_it_is_a_share() -> None:
    with pytest.raises(UsageError, match="--sensitivity: expected a number from 0 to 1, found 2"):
        LeastSquaresOptions(sensitivity=2.0)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("count", [30, 1000])
def test_rows_are_drawn_by_chance(count: int, axis: int) -> None:
    shape = (20, 4, 3) if axis == 2 else (20, 3, 4)
    picks = draw(shape, axis, count, np.array([0.0, 0.75, 0.25, 0.0]), np.random.default_rng(0))
    assert len(picks[0]) == min(count, 80)
    assert set(picks[1]) == {1, 2}
    assert np.mean(picks[1] == 1) == pytest.approx(0.75, abs=0.05)
    assert set(picks[0]) == set(range(20))
    assert list(picks[0]) == sorted(picks[0])
