"""Reordering axis by axis is transport, whatever the sizes of the axes that do not move."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxmerge.units.alignment import align_units, axis_orders, reordered, zip_orders
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import random_permutations, transport
from onnxmerge.units.zips import Zipped, zipped
from tests.layouts import typed

SPACES = [Space("h", 2), Space("i", 3, ("h",)), Space("t", 4)]


def test_it_is_transport() -> None:
    typing = typed(SPACES, {}, {"a": ["5", "t", "h i"]})
    perms, layout = random_permutations(typing.spaces, 0), typing.activations["a"]
    orders = axis_orders(layout, typing, perms)
    assert orders is not None
    assert set(orders) == {1, 2}
    batch = np.random.default_rng(0).normal(size=(5, 4, 6))
    np.testing.assert_array_equal(reordered(batch, orders), transport(batch, layout, typing.spaces, perms))
    np.testing.assert_array_equal(reordered(batch[:2], orders), reordered(batch, orders)[:2])


def test_nothing_moves_without_a_matching() -> None:
    typing = typed(SPACES, {}, {"a": ["5", "t", "h i"]})
    assert axis_orders(typing.activations["a"], typing, {}) == {}


def test_an_axis_that_depends_on_another_is_refused() -> None:
    typing = typed(SPACES, {}, {"a": ["5", "h", "i"]})
    assert axis_orders(typing.activations["a"], typing, random_permutations(typing.spaces, 0)) is None


@given(seed=st.integers(0, 999))
def test_units_meet_as_a_zip_of_the_whole_tensor_would_have_them(seed: int) -> None:
    typing, rng = typed(SPACES, {}, {"a": ["5", "h i"]}), np.random.default_rng(seed)
    layout = typing.activations["a"]
    models = tuple(
        {"h": rng.permutation(2), "i": rng.integers(0, 3, size=(2, 3))}  # what others vary with keeps its units
        for _ in range(2)
    )
    zips, shares = Zipped(models), (0.25, 0.75)
    arrays = [rng.normal(size=(5, 6)) for _ in models]
    units = align_units(layout, -1, typing, zips, shares)
    assert units is not None
    np.testing.assert_allclose(units.mean(arrays), zipped(arrays, layout, typing, zips, shares), atol=1e-12)
    np.testing.assert_allclose(units.mean([array[2] for array in arrays]), units.mean(arrays)[2])


@given(seed=st.integers(0, 999), width=st.integers(1, 8))
def test_units_meet_at_any_width(seed: int, width: int) -> None:
    typing, rng = typed(SPACES, {}, {"a": ["5", "t"]}), np.random.default_rng(seed)
    layout = typing.activations["a"]
    labels = rng.permutation(np.arange(8) % width).reshape(2, 4)
    zips, shares = Zipped(tuple({"t": own} for own in labels), {"t": width}), (0.25, 0.75)
    arrays = [rng.normal(size=(5, 4)) for _ in labels]
    units = align_units(layout, 1, typing, zips, shares)
    assert units is not None
    found = units.mean(arrays)
    assert found.shape == (5, width)
    np.testing.assert_allclose(found, zipped(arrays, layout, typing, zips, shares), atol=1e-12)
    orders = zip_orders(layout, typing, zips, 1)
    assert orders is not None
    assert list(orders) == [1]
    np.testing.assert_array_equal(orders[1], labels[1])


def test_units_meet_where_permutations_bring_them() -> None:
    typing = typed(SPACES, {}, {"a": ["5", "t", "h i"]})
    layout, perms = typing.activations["a"], random_permutations(typing.spaces, 1)
    one, other = np.random.default_rng(0).normal(size=(2, 5, 4, 6))
    units = align_units(layout, 2, typing, [perms], (0.5, 0.5))
    assert units is not None
    moved = [reordered(array, order) for array, order in zip((one, other), units.before, strict=True)]
    expected = (one + transport(other, layout, typing.spaces, perms)) / 2
    np.testing.assert_allclose(units.mean(moved), expected, atol=1e-12)


def test_a_zip_along_another_axis_than_the_channels_is_refused() -> None:
    typing = typed(SPACES, {}, {"a": ["5", "t", "h i"]})
    zips = Zipped(({"t": np.array([0, 0, 1, 2])}, {"t": np.arange(4)}))
    assert align_units(typing.activations["a"], 2, typing, zips, (0.5, 0.5)) is None
