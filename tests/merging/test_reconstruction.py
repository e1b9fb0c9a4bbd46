"""Agreement with the parents: what earns it, what does not, and in whose units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.reconstruction import Feature, agreement, last_features, reference
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import invert, random_permutations, transported
from onnxmerge.units.zips import Zipped, identity_zip
from tests.graphs import normal
from tests.layouts import typed
from tests.merging.networks import models, network

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) z = MatMul(r, w2) y = Softmax(z) }"
TYPING = typed(
    [Space("h", 5)],
    {"w1": ["h", "6"], "b1": ["h"], "w2": ["h", "3"]},
    {"x": ["2", "6"], "h": ["2", "h"], "r": ["2", "h"], "z": ["2", "3"], "y": ["2", "3"]},
)
RNG = np.random.default_rng(0)
PARENT = RNG.normal([3.0, 0.0, -1.0, 0.0], 1.0, (400, 4)).astype(np.float32)
NOISE = RNG.normal([3.0, 0.0, -1.0, 0.0], 1.0, (400, 4)).astype(np.float32)
MEAN = PARENT.mean(axis=0)


def test_agreement_is_one_for_equals_and_about_zero_for_the_unrelated() -> None:
    for to_scale in (True, False):
        assert agreement(PARENT, PARENT, to_scale=to_scale) == pytest.approx(1.0)
        assert abs(agreement(NOISE, PARENT, to_scale=to_scale)) < 0.1
        assert agreement(np.tile(MEAN, (400, 1)), PARENT, to_scale=to_scale) == pytest.approx(0.0, abs=1e-6)


def test_collapsed_variance_and_a_moved_mean_cost_agreement() -> None:
    for to_scale in (True, False):
        full = agreement(PARENT + NOISE - MEAN, PARENT, to_scale=to_scale)
        assert agreement(MEAN + 0.3 * (PARENT + NOISE - 2 * MEAN), PARENT, to_scale=to_scale) < full
        assert agreement(PARENT + 2.0, PARENT, to_scale=to_scale) < 0.95


def test_a_common_factor_counts_for_answers_only() -> None:
    assert agreement(0.2 * PARENT, PARENT, to_scale=False) == pytest.approx(1.0)
    assert agreement(0.2 * PARENT, PARENT, to_scale=True) < 0.5


def test_the_best_factor_is_the_one_of_equal_length() -> None:
    factors = np.geomspace(0.2, 5.0, 200)
    best = max(agreement(np.float32(f) * (PARENT + NOISE), PARENT, to_scale=True) for f in factors)
    assert agreement(PARENT + NOISE, PARENT, to_scale=False) == pytest.approx(best, abs=1e-3)


def test_outputs_are_compared_and_what_the_last_layer_reads() -> None:
    net = network(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    assert last_features(net.graph, TYPING) == (Feature("y", -1, answer=True), Feature("r", -1, answer=False))


def test_units_that_a_head_reads_are_compared_along_their_own_axis() -> None:
    """A trunk may end in anything: here in a sum of what two convolutions give, whose units are its channels."""
    text = """(float[n,2,6,5] x) => (float[n,4,6,5] y) {
        a = Conv(x, w) r = Relu(a) b = Conv(r, v) s = Add(a, b) y = Relu(s)
    }"""
    net = network(text, normal(w=(4, 2, 1, 1), v=(4, 4, 1, 1)))
    images, hidden = ["2", "2", "6", "5"], ["2", "c", "6", "5"]
    free = typed(
        [Space("c", 4)],
        {"w": ["c", "2", "1", "1"], "v": ["c", "c", "1", "1"]},
        {"x": images, **dict.fromkeys("arbsy", hidden)},
    )
    assert last_features(net.graph, free) == (Feature("y", 1, answer=True),)
    perms = random_permutations(free.spaces, 3)
    copy = network(text, dict(transported(net.weights, free, invert(perms, free.spaces))))
    feeds = [{"x": np.random.default_rng(1).normal(size=(9, 2, 6, 5)).astype(np.float32)}]
    known = reference(models(net, copy), free, feeds, "cpu")
    (rows,) = known.rows_of(net.weights)
    assert rows["y"].shape == (9 * 6 * 5, 4)
    assert known.compare(rows, [perms]) == pytest.approx(1.0, abs=1e-5)
    assert known.compare(rows, [{}]) < 0.95
    labels = (identity_zip(free.spaces), invert(perms, free.spaces))
    assert known.compare(rows, Zipped(labels)) == pytest.approx(1.0, abs=1e-5)


def test_a_network_without_float_outputs_or_a_last_layer_is_refused() -> None:
    net = network("(float[n,3] x) => (int64[n,1] y) { s = Add(x, x)  y = ArgMax<axis=1>(s) }", {})
    with pytest.raises(InputError, match="nothing can be compared"):
        last_features(net.graph, typed([], {}, {"x": ["2", "3"], "s": ["2", "3"], "y": ["2", "1"]}))


def test_parents_are_compared_in_matched_units() -> None:
    net = network(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    perms = random_permutations(TYPING.spaces, 3)
    copy = network(MLP, dict(transported(net.weights, TYPING, invert(perms, TYPING.spaces))))
    feeds = [{"x": np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)} for _ in range(2)]
    known = reference(models(net, copy), TYPING, feeds, "cpu")
    (rows,) = known.rows_of(net.weights)
    assert rows["r"].shape == (80, 5)
    assert known.compare(rows, [perms]) == pytest.approx(1.0, abs=1e-5)
    assert known.compare(rows, [{}]) < 0.95
    # A zip says what became of each unit of a parent.
    labels = (identity_zip(TYPING.spaces), invert(perms, TYPING.spaces))
    assert known.compare(rows, Zipped(labels)) == pytest.approx(1.0, abs=1e-5)


def test_features_are_compared_at_the_best_factor_and_answers_to_scale() -> None:
    net = network(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    feeds = [{"x": np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)}]
    known = reference(models(net, net), TYPING, feeds, "cpu")
    (rows,) = known.rows_of(net.weights)
    (answer,) = (replace(known, features=(each,)) for each in known.features if each.answer)
    (inside,) = (replace(known, features=(each,)) for each in known.features if not each.answer)
    doubled = {name: 2 * own for name, own in rows.items()}
    assert inside.compare(doubled, [{}]) == pytest.approx(1.0, abs=1e-5)
    assert answer.compare(doubled, [{}]) < 0.9
    assert answer.compare(rows, [{}]) == pytest.approx(1.0, abs=1e-5)


def test_directions_are_read_along_the_parents_own_answers() -> None:
    """Noise where the parent says nothing costs nothing, and neither do the lengths of rows; other answers cost."""
    text = "(float[n,20] x) => (float[n,20] y) { y = MatMul(x, w) }"
    typing = typed([], {"w": ["20", "20"]}, {"x": ["2", "20"], "y": ["2", "20"]})
    few = np.diag([1.0] * 6 + [1e-3] * 14).astype(np.float32)  # the answers that a task needs, of all that could be
    sets = models(network(text, {"w": few}), network(text, {"w": few}))
    feed = {"x": np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32)}
    found = reference(sets, typing, [feed], "cpu", directions=("y",))
    own = found.rows[0]["y"]
    noise = np.random.default_rng(1).normal(size=own.shape).astype(np.float32)
    lengths = np.random.default_rng(2).uniform(0.5, 2.0, (len(own), 1)).astype(np.float32)
    silent = own + 0.3 * np.pad(noise[:, 6:], ((0, 0), (6, 0)))
    spoken = own + 0.3 * np.pad(noise[:, :6], ((0, 0), (0, 14)))

    def score(rows: NDArray[np.float32]) -> float:
        answers = [feature for feature in found.features if feature.answer]
        return replace(found, features=tuple(answers)).compare({"y": rows}, [{}])

    assert score(own * lengths) == pytest.approx(1.0, abs=1e-4)
    assert score(silent) > score(spoken)
