"""Averaging: types, weights, transport, and what cannot be averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.combine import combine
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import ModelSet
from onnxmerge.model.owned import OwnedRows
from onnxmerge.units.layout import Space, Typing
from onnxmerge.units.permutations import invert, random_permutations, transported
from onnxmerge.units.zips import Matchings, Zipped
from tests.layouts import typed
from tests.merging.networks import models, network

TYPING = typed([Space("h", 6)], {"w": ["h", "4"], "v": ["3", "h"]})
GRAPH = "(float[n,4] x) => (float[n,3] y) { a = Transpose(w)  b = MatMul(x, a)  c = Transpose(v)  y = MatMul(b, c) }"


def pair(*weights: Mapping[str, NDArray[Any]]) -> ModelSet:
    return models(*(network(GRAPH, each) for each in weights))


def random(seed: int, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(6, 4)).astype(dtype), "v": rng.normal(size=(3, 6)).astype(dtype)}


def test_mean_in_the_first_models_coordinates() -> None:
    first, other = random(0), random(1)
    perms = random_permutations(TYPING.spaces, 5)
    moved = dict(transported(other, TYPING, invert(perms, TYPING.spaces)))
    merged = combine(pair(first, moved), TYPING, [perms])
    for name in first:
        np.testing.assert_allclose(merged[name], (first[name] + other[name]) / 2, rtol=1e-6)
        assert merged[name].dtype == np.float32


def test_weights_are_divided_by_their_sum() -> None:
    merged = combine(pair(random(0), random(1), random(2)), TYPING, [{}, {}], weights=[2, 1, 1])
    expected = 0.5 * random(0)["w"] + 0.25 * random(1)["w"] + 0.25 * random(2)["w"]
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-6)


def test_three_copies_of_one_model_give_its_bits_back() -> None:
    merged = combine(pair(random(0), random(0), random(0)), TYPING, [{}, {}], weights=[0.1, 0.7, 0.3])
    assert merged["w"].tobytes() == random(0)["w"].tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_stored_type_is_kept(dtype: Any) -> None:
    sets = [LazyWeights(each, each.__getitem__) for each in (random(0, dtype), random(1, dtype))]
    template = pair(random(0)).template
    merged = combine(ModelSet(template, tuple(sets), (template,) * 2), TYPING, [{}])
    wide = (sets[0]["w"].astype(np.float64) + sets[1]["w"].astype(np.float64)) / 2
    assert merged["w"].dtype == dtype
    np.testing.assert_array_equal(merged["w"], wide.astype(dtype))


def test_a_masks_minus_infinity_survives() -> None:
    first, other = random(0), random(1)
    first["w"][0] = other["w"][0] = -np.inf
    merged = combine(pair(first, other), TYPING, [{}], weights=[1, 0])
    assert np.all(np.isneginf(merged["w"][0]))
    np.testing.assert_array_equal(merged["v"], first["v"])


def test_integers_must_be_equal() -> None:
    graph = "(float[n,4] x) => (float[n,2] y) { y = Gather<axis=1>(x, i) }"
    one, same, other = (network(graph, {"i": np.array(i, np.int64)}) for i in ([0, 1], [0, 1], [0, 2]))
    typing = Typing({}, {}, {})
    np.testing.assert_array_equal(combine(models(one, same), typing, [{}])["i"], [0, 1])
    with pytest.raises(InputError, match=r"initializer i \(int64\): model 2"):
        combine(models(one, other), typing, [{}])["i"]


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    asked: list[str] = []

    def compute(name: str) -> NDArray[Any]:
        asked.append(name)
        return np.zeros(1)

    lazy = LazyWeights(["a", "b"], compute)
    assert list(lazy) == ["a", "b"]
    assert "a" in lazy
    assert len(lazy) == 2
    assert asked == []
    assert lazy["b"].shape == (1,)
    assert asked == ["b"]
    with pytest.raises(KeyError):
        lazy["c"]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [np.nan, 1.0]])
def test_senseless_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="weight"):
        combine(pair(random(0), random(1)), TYPING, [{}], weights=weights)


def test_one_matching_for_each_other_model() -> None:
    with pytest.raises(UsageError, match="one matching"):
        combine(pair(random(0), random(1)), TYPING, [])


OWNERS = np.array([[True, True, False, True], [True, False, True, True], [True, True, True, False]])
"""Which of three models own which of the four positions of axis 1 of w; those of v are units and outputs."""


@pytest.mark.parametrize("zipping", [False, True], ids=["matched", "zipped"])
def test_positions_that_some_models_own_are_the_mean_of_those(*, zipping: bool) -> None:
    given = [random(seed) for seed in range(3)]
    perms = [random_permutations(TYPING.spaces, seed) for seed in (4, 5)]
    labels = [{"h": np.array(each)} for each in ([0, 1, 2, 3, 4, 5], [1, 0, 2, 2, 5, 4], [5, 4, 3, 2, 1, 0])]
    matchings: Matchings = Zipped(tuple(labels)) if zipping else perms
    shares = [2.0, 1.0, 1.0]
    merged = combine(replace(pair(*given), owned=OwnedRows({"w": 1}, OWNERS)), TYPING, matchings, weights=shares)
    for position, owners in enumerate(OWNERS.T):
        alone = [share if owned else 0.0 for share, owned in zip(shares, owners, strict=True)]
        expected = combine(pair(*given), TYPING, matchings, weights=alone)["w"]
        np.testing.assert_allclose(merged["w"][:, position], expected[:, position], rtol=1e-6)
    np.testing.assert_array_equal(merged["v"], combine(pair(*given), TYPING, matchings, weights=shares)["v"])


def test_what_its_one_owner_has_keeps_its_bits_and_nothing_of_others_gets_in() -> None:
    owners = np.array([[False, True, True, True], [True, True, True, False]])
    masked = {"w": random(0)["w"], "v": random(0)["v"]}
    masked["w"][:, 0] = -np.inf
    merged = combine(replace(pair(masked, random(1)), owned=OwnedRows({"w": 1}, owners)), TYPING, [{}])
    np.testing.assert_array_equal(merged["w"][:, 0], random(1)["w"][:, 0])
    np.testing.assert_array_equal(merged["w"][:, 3], random(0)["w"][:, 3])
    zips = Zipped(({"h": np.arange(6)}, {"h": np.arange(6)}))
    merged = combine(replace(pair(masked, random(1)), owned=OwnedRows({"w": 1}, owners)), TYPING, zips)
    np.testing.assert_allclose(merged["w"][:, 0], random(1)["w"][:, 0], rtol=1e-6)
    assert np.isfinite(merged["w"]).all()
