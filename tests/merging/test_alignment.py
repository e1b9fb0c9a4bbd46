"""Reordering axis by axis is transport, whatever the sizes of the axes that do not move."""

from __future__ import annotations

import numpy as np

from onnxmerge.axes.layout import Space
from onnxmerge.merging.alignment import axis_orders, reordered
from onnxmerge.merging.transport import random_permutations, transport
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
