from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.combine import average, combine
from onnxmerge.model.network import ModelSet
from onnxmerge.units.layout import Space, Typing
from onnxmerge.units.permutations import identity, random_permutations, transport
from onnxmerge.units.zips import Zipped, identity_zip, member_counts, project, zipped
from tests.graphs import normal
from tests.layouts import typed
from tests.merging.networks import models, network

SIZE = 5
HALF = [0.5, 0.5]
ONE = np.array([0, 0, 1, 2, 3])  # two units of the first model become one,
TWO = np.array([0, 1, 1, 4, 4])  # the last merged unit is of the second alone, the fourth of the first


def mlp() -> Typing:
    tensors = {"w1": ["h", "3"], "b": ["h"], "w2": ["2", "h"], "rec": ["h", "h"]}
    return replace(typed([Space("h", SIZE)], tensors), consumed=frozenset({("w2", 1, "h"), ("rec", 1, "h")}))


def matrices(labels: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    unmerge = np.eye(SIZE)[labels]
    return (unmerge / counts).T, unmerge


def test_merge_and_unmerge_matrices() -> None:
    typing = mlp()
    one, two = (
        normal(w1=(SIZE, 3), b=(SIZE,), w2=(2, SIZE), rec=(SIZE, SIZE), seed=seed, scale=1.0) for seed in (1, 2)
    )
    counts = np.bincount([*ONE, *TWO])
    (merge_one, unmerge_one), (merge_two, unmerge_two) = matrices(ONE, counts), matrices(TWO, counts)
    wanted = {
        "w1": merge_one @ one["w1"] + merge_two @ two["w1"],
        "b": merge_one @ one["b"] + merge_two @ two["b"],
        "w2": (one["w2"] @ unmerge_one + two["w2"] @ unmerge_two) / 2,
        "rec": merge_one @ one["rec"] @ unmerge_one + merge_two @ two["rec"] @ unmerge_two,
    }
    zips = Zipped(({"h": ONE}, {"h": TWO}))
    for name, expected in wanted.items():
        found = zipped([one[name], two[name]], typing.initializers[name], typing, zips, HALF)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)


def test_members_that_count_differently() -> None:
    """Only on the axes that give units: what a member counts does not change who reads the merged unit."""
    typing = mlp()
    one, two = (
        normal(w1=(SIZE, 3), b=(SIZE,), w2=(2, SIZE), rec=(SIZE, SIZE), seed=seed, scale=1.0) for seed in (1, 2)
    )
    counts = [np.array([0, 2.0, 0, 0, 1]), np.array([0.5, 0, 1, 1, 0])]
    total = np.bincount([*ONE, *TWO], np.concatenate(counts))
    merge_one, merge_two = (
        np.eye(SIZE)[to].T * own / np.where(total > 0, total, 1)[:, None]
        for to, own in zip((ONE, TWO), counts, strict=True)
    )
    unmerge_one, unmerge_two = np.eye(SIZE)[ONE], np.eye(SIZE)[TWO]
    wanted = {
        "w1": merge_one @ one["w1"] + merge_two @ two["w1"],
        "w2": (one["w2"] @ unmerge_one + two["w2"] @ unmerge_two) / 2,
        "rec": merge_one @ one["rec"] @ unmerge_one + merge_two @ two["rec"] @ unmerge_two,
    }
    zips = Zipped(({"h": ONE}, {"h": TWO}), counts=tuple({"h": own} for own in counts))
    for name, expected in wanted.items():
        found = zipped([one[name], two[name]], typing.initializers[name], typing, zips, HALF)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)
        labels = member_counts(typing.initializers[name], typing.initializers[name].blocks[0], typing, zips, HALF)
        np.testing.assert_allclose(labels.reshape(-1), [1.0] if name == "w2" else total / 2, err_msg=name)


def test_merge_and_unmerge_matrices_of_another_width() -> None:
    """Narrower: two of the first model's units meet two of the second's. Wider: all that is left alone stays apart."""
    typing = mlp()
    for labels in (
        (np.array([0, 0, 1, 2, 1]), np.array([0, 2, 2, 1, 0])),
        (np.array([0, 1, 2, 3, 4]), np.array([0, 5, 6, 3, 6])),
        (np.arange(SIZE), np.arange(SIZE) + SIZE),
    ):
        width = int(np.max(labels)) + 1
        zips = Zipped(({"h": labels[0]}, {"h": labels[1]}), {"h": width})
        models = [normal(w1=(SIZE, 3), w2=(2, SIZE), rec=(SIZE, SIZE), seed=seed, scale=1.0) for seed in (1, 2)]
        unmerge = [np.eye(width)[own] for own in labels]
        counts = np.bincount(np.concatenate(labels))
        merge = [(each / counts).T for each in unmerge]
        wanted = {
            "w1": sum(merge[m] @ models[m]["w1"] for m in (0, 1)),
            "w2": sum(models[m]["w2"] @ unmerge[m] for m in (0, 1)) / 2,
            "rec": sum(merge[m] @ models[m]["rec"] @ unmerge[m] for m in (0, 1)),
        }
        for name, expected in wanted.items():
            found = zipped([each[name] for each in models], typing.initializers[name], typing, zips, HALF)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{name}, {width} units")


def test_units_that_no_model_has_both_of_are_zero() -> None:
    typing = typed([Space("h", 2), Space("g", 2)], {"t": ["h", "g"]})
    only_first, only_second = np.array([0, 0]), np.array([1, 1])
    zips = Zipped(({"h": only_first, "g": only_first}, {"h": only_second, "g": only_second}))
    found = zipped([np.full((2, 2), 3.0), np.full((2, 2), 5.0)], typing.initializers["t"], typing, zips, HALF)
    np.testing.assert_array_equal(found, [[3, 0], [0, 5]])


def test_models_have_weights() -> None:
    typing = mlp()
    zips = Zipped(({"h": np.arange(SIZE)}, {"h": np.arange(SIZE)[::-1].copy()}))
    arrays = [np.arange(5.0), np.zeros(5)]
    found = zipped(arrays, typing.initializers["b"], typing, zips, [0.25, 0.75])
    np.testing.assert_allclose(found, 0.25 * np.arange(5))
    found = zipped([np.arange(5.0), np.full(5, -np.inf)], typing.initializers["b"], typing, zips, [1.0, 0.0])
    np.testing.assert_array_equal(found, np.arange(5))


def heads() -> Typing:
    spaces = [Space("h", 3), Space("d", 2, ("h",))]
    found = typed(spaces, {"q": ["h d", "4"], "o": ["4", "h d"], "apart": ["d", "4", "h"]})
    return replace(found, consumed=frozenset({("o", 1, "h"), ("o", 1, "d")}))


@pytest.mark.parametrize("name", ["q", "o", "apart"])
def test_a_zip_that_permutes_is_the_mean_of_what_was_transported(name: str) -> None:
    typing = heads()
    layout = typing.initializers[name]
    perms = random_permutations(typing.spaces, 3)
    array = np.random.default_rng(0).standard_normal(layout.shape)
    moved = transport(array, layout, typing.spaces, perms)
    # ``perms`` brings the array to the moved order, so the moved one's labels say where each of its units came from.
    labels = {"h": perms["h"], "d": perms["d"]}
    zips = Zipped((identity_zip(typing.spaces), labels))
    np.testing.assert_allclose(zipped([array, moved], layout, typing, zips, HALF), array)


def test_inner_units_are_zipped_inside_their_outer_unit() -> None:
    typing = heads()
    swapped = {"h": np.array([1, 0, 2]), "d": np.array([[0, 0], [0, 1], [1, 0]])}
    array = np.arange(24.0).reshape(6, 4)
    layout = typing.initializers["q"]
    sums = project(array, layout, layout.blocks[0], typing.spaces, swapped)
    rows = array.reshape(3, 2, 4)
    np.testing.assert_array_equal(sums[1], [rows[0, 0] + rows[0, 1], np.zeros(4)])
    np.testing.assert_array_equal(sums[0], rows[1])
    np.testing.assert_array_equal(sums[2], rows[2, ::-1])
    zips = Zipped((identity_zip(typing.spaces), swapped))
    counts = member_counts(layout, layout.blocks[0], typing, zips, [1, 1])
    np.testing.assert_array_equal(counts[..., 0], [[2, 2], [3, 1], [2, 2]])
    still = project(array, layout, layout.blocks[0], typing.spaces, swapped, [(0, 0)])
    np.testing.assert_array_equal(still, rows[[1, 0, 2]])


TEXT = "(float[n,3] x) => (float[n,2] y) { h = Gemm<transB=1>(x, w1, b) r = Relu(h) y = MatMul(r, w2) }"


def zip_models() -> tuple[ModelSet, Typing, Zipped]:
    nets = [network(TEXT, normal(w1=(SIZE, 3), b=(SIZE,), w2=(SIZE, 2), seed=seed)) for seed in (1, 2)]
    typing = replace(
        typed([Space("h", SIZE)], {"w1": ["h", "3"], "b": ["h"], "w2": ["h", "2"]}),
        consumed=frozenset({("w2", 0, "h")}),
    )
    return models(*nets), typing, Zipped(({"h": ONE}, {"h": TWO}))


def test_combine_zips_and_keeps_stored_types() -> None:
    paired, typing, zips = zip_models()
    merged = combine(paired, typing, zips)
    assert merged["w1"].dtype == np.float32
    both = [each["w1"] for each in paired.weights]
    np.testing.assert_allclose(merged["w1"], average(both, typing.initializers["w1"], typing, zips, HALF), rtol=1e-6)


def test_a_zip_of_equal_models_gives_its_bits_back() -> None:
    paired, typing, _ = zip_models()
    same = models(paired.sources[0], paired.sources[0])
    merged = combine(same, typing, Zipped((identity(typing.spaces),) * 2))
    for name, array in paired.weights[0].items():
        np.testing.assert_array_equal(merged[name], array)


def test_integers_go_with_units_that_only_change_places() -> None:
    text = "(int32[n,5] x) => (int32[n,5] y) { y = Add(x, w) }"
    places = np.array([3, 1, 4, 0, 2])
    whole = np.arange(5, dtype=np.int32)
    nets = [network(text, {"w": whole}), network(text, {"w": whole[places]})]
    typing = typed([Space("h", SIZE)], {"w": ["h"]})
    zips = Zipped(({"h": np.arange(SIZE)}, {"h": places}))
    np.testing.assert_array_equal(combine(models(*nets), typing, zips)["w"], whole)
    apart = Zipped(({"h": np.arange(SIZE)}, {"h": np.arange(SIZE) + SIZE}), {"h": 2 * SIZE})
    with pytest.raises(InputError, match=r"initializer w \(int32\)"):
        combine(models(*nets), typing, apart)["w"]


def test_integers_with_units_cannot_be_zipped() -> None:
    text = "(int32[n,5] x) => (int32[n,5] y) { y = Add(x, w) }"
    nets = [network(text, {"w": np.arange(5, dtype=np.int32)})] * 2
    merged = combine(models(*nets), typed([Space("h", SIZE)], {"w": ["h"]}), Zipped(({"h": ONE}, {"h": TWO})))
    with pytest.raises(InputError, match=r"initializer w \(int32\)"):
        merged["w"]
