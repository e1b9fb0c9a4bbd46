from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError, UsageError
from onnxmerge.matching.zipping import ZipRule, zip_units

Array = NDArray[np.float64]


def correlations(*models: Array) -> Array:
    return np.asarray(np.corrcoef(np.concatenate(models)), np.float64)


def features(units: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((units, 40))


def pairs(*entries: tuple[int, int, float], units: int = 4, rest: float = -1.0) -> Array:
    similarity = np.full((units, units), rest)
    for one, other, value in entries:
        similarity[one, other] = similarity[other, one] = value
    return similarity


def by_the_book(similarity: Array, models: int, width: int, a: float, budget: int) -> NDArray[np.int64]:
    """The greedy zip with an argmax over the whole matrix at every step."""
    size = len(similarity) // models
    parts = [[unit] for unit in range(len(similarity))]
    owners = [{unit // size} for unit in range(len(similarity))]
    spent = [0] * models
    own = similarity.copy()
    while len(parts) > width:
        allowed = own.copy()
        for i, left in enumerate(owners):
            for j, right in enumerate(owners):
                if i == j or (left == right and len(left) == 1 and spent[min(left)] >= budget):
                    allowed[i, j] = -np.inf
        i, j = sorted(divmod(int(allowed.argmax()), len(parts)))
        row = np.minimum(own[i], own[j])
        own[i] = own[:, i] = np.minimum(row, a * row)
        if owners[i] == owners[j] and len(owners[i]) == 1:
            spent[min(owners[i])] += 1
        parts[i] += parts.pop(j)
        owners[i] |= owners.pop(j)
        own = np.delete(np.delete(own, j, 0), j, 1)
    labels = np.empty(len(similarity), np.int64)
    for label, units in enumerate(sorted(parts, key=min)):
        labels[units] = label
    return labels.reshape(models, -1)


def test_equal_models_pair_up_in_place() -> None:
    x = features(30)
    np.testing.assert_array_equal(zip_units(correlations(x, x), 2, "p"), [np.arange(30)] * 2)


def test_a_permuted_copy_is_recognised() -> None:
    x = features(30)
    order = np.random.default_rng(1).permutation(30)
    first, second = zip_units(correlations(x, x[order]), 2, "p")
    np.testing.assert_array_equal(first, np.arange(30))
    np.testing.assert_array_equal(second, order)


@pytest.mark.parametrize("rule", [ZipRule(), ZipRule(a=1.0), ZipRule(a=0.3, b=0.25), ZipRule(a=0.7, b=0.0)])
@pytest.mark.parametrize("models", [2, 3])
def test_as_the_plain_search_would(models: int, rule: ZipRule) -> None:
    shared = features(16)
    similarity = correlations(*(shared + features(16, seed) * 0.8 for seed in range(1, models + 1)))
    for width in (16, 9, 20):
        budget = int((models * 16 - width) / models * rule.b + 1e-9)
        wanted = by_the_book(similarity, models, width, rule.a, budget)
        np.testing.assert_array_equal(zip_units(similarity, models, "p", width=width, rule=rule), wanted)


def test_units_of_one_model_may_be_merged_within_its_budget() -> None:
    similarity = pairs((0, 1, 0.9), (2, 3, 0.8), (0, 2, 0.5), (1, 3, 0.4), rest=0.0)
    np.testing.assert_array_equal(zip_units(similarity, 2, "p"), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(zip_units(similarity, 2, "p", rule=ZipRule(b=0.0)), [[0, 1], [0, 1]])


def test_a_discount_does_not_raise_a_negative_similarity() -> None:
    # 0 and 2 go first. Times 0.5 their -0.6 to 1 would be -0.3, above the -0.4 of 1 and 3.
    similarity = pairs((0, 2, 0.9), (1, 3, -0.4), (0, 1, -0.6), (1, 2, -0.6))
    np.testing.assert_array_equal(zip_units(similarity, 2, "p"), [[0, 1], [0, 1]])


def test_no_merged_unit_is_merged_again_with_a_discount_of_zero() -> None:
    similarity = pairs((0, 2, 0.9), (0, 1, 0.8), (1, 2, 0.8), (1, 3, -0.9), (0, 3, -0.5))
    np.testing.assert_array_equal(zip_units(similarity, 2, "p", rule=ZipRule(a=0.0)), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(zip_units(similarity, 2, "p", rule=ZipRule(a=1.0)), [[0, 0], [0, 1]])


def test_a_discount_of_zero_gives_way_where_nothing_else_is_left() -> None:
    x = features(5)
    labels = zip_units(correlations(x, x, x), 3, "p", rule=ZipRule(a=0.0))
    assert np.bincount(labels.reshape(-1)).sum() == 15
    assert labels.max() == 4


def test_dead_units_go_together_in_place() -> None:
    x = features(6)
    similarity = correlations(x, x)
    for unit in (2, 4, 8, 10):
        similarity[unit] = similarity[:, unit] = 0.0
    np.testing.assert_array_equal(zip_units(similarity, 2, "p"), [np.arange(6)] * 2)
    np.testing.assert_array_equal(zip_units(np.zeros((12, 12)), 2, "p"), [np.arange(6)] * 2)


def test_equals_are_merged_with_those_of_another_model() -> None:
    x = features(2)
    labels = zip_units(correlations(x[[0, 0, 1, 1]], x[[1, 1, 0, 0]]), 2, "p")
    assert [sorted(own) for own in labels.tolist()] == [[0, 1, 2, 3]] * 2
    assert {*labels[0, :2]} == {*labels[1, 2:]}


def test_dead_units_make_room() -> None:
    alive = features(5)
    similarity = np.zeros((12, 12))
    live = [0, 1, 3, 4, 6, 7, 8, 10]  # two of six are dead in each model, others of the second than of the first
    similarity[np.ix_(live, live)] = correlations(alive[[0, 1, 2, 3]], alive[[0, 1, 2, 4]])
    labels = zip_units(similarity, 2, "p")
    np.testing.assert_array_equal(labels[0, [0, 1, 3]], labels[1, [0, 1, 2]])
    assert labels[0, 4] != labels[1, 4]
    assert len({*labels[0, [2, 5]], *labels[1, [3, 5]]}) == 1


def test_the_similarity_is_used_up_only_where_that_is_allowed() -> None:
    similarity = correlations(features(8), features(8, 1))
    before = similarity.copy()
    kept = zip_units(similarity, 2, "p")
    np.testing.assert_array_equal(similarity, before)
    np.testing.assert_array_equal(zip_units(similarity, 2, "p", overwrite=True), kept)


def test_a_thousand_units_take_no_time() -> None:
    similarity = correlations(features(1024), features(1024) + features(1024, 1))
    started = time.process_time()
    labels = zip_units(similarity, 2, "p")
    assert time.process_time() - started < 1
    assert labels.max() == 1023


def test_refusals() -> None:
    with pytest.raises(InputError, match="space p"):
        zip_units(pairs((0, 1, np.nan)), 2, "p")
    for width in (0, 5):
        with pytest.raises(UsageError, match="cannot become"):
            zip_units(pairs(), 2, "p", width=width)
    for a, b in ((-0.1, 1.0), (0.5, 1.1), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="between 0 and 1"):
            ZipRule(a, b)
