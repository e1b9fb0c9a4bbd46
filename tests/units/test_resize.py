"""Groups of another size: which can have one, and where their units stand then."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing
from onnxmerge.units.resize import resizable_spaces, resized_axes, resized_layout, resized_orders, resized_spaces
from tests.layouts import typed
from tests.matching.structures import fixed, typing

SPACES = [Space("h", 2), Space("i", 3, ("h",)), Space("u", 5), Space("one", 1)]


def test_spaces_that_vary_with_none_can_have_another_size() -> None:
    found = typed(SPACES, {"w": ["u", "h i"], "v": ["one", "4"]}, {"a": ["2", "u"]})
    assert resizable_spaces(found) == ["h", "u"]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([[0, 1, 2], [3, 4, 5]], ["h"]),
        ([[0, 2, 4], [1, 3, 5]], []),
        ([[5, 4, 3], [2, 1, 0]], []),
        ([[0, 1, 2], [3, 5, 4]], []),
    ],
)
def test_units_stand_one_after_the_other(rows: list[list[int]], found: list[str]) -> None:
    block = Block((AxisBlock(("h", "i"), np.array(rows)),))
    typed = Typing({space.id: space for space in SPACES[:2]}, {"w": TensorLayout("w", (6,), (block,))}, {})
    assert resizable_spaces(typed) == found


def test_spaces_beside_each_other_move_on() -> None:
    found = typing([fixed("x", 4), Space("a", 2), Space("b", 3)], {"w": [["a", "x", "b"]]})
    assert resizable_spaces(found) == ["a", "b"]
    wide = resized_layout(found.initializers["w"], {"a": 3, "b": 1})
    assert wide.shape == (3 + 4 + 1,)
    assert [block.axes[0].positions.tolist() for block in wide.blocks] == [[0, 1, 2], [3, 4, 5, 6], [7]]


@pytest.mark.parametrize("width", [1, 3])
def test_parts_of_a_head_keep_together(width: int) -> None:
    """Heads of a query, a key and a value of two positions each, or all queries before all keys and values."""
    for strides in ((6, 2, 1), (2, 4, 1)):
        parts = [np.add.outer(np.arange(2) * strides[0], part * strides[1] + np.arange(2)) for part in range(3)]
        blocks = tuple(Block((AxisBlock(("h", "d"), part),)) for part in parts)
        wide = resized_layout(TensorLayout("w", (12,), blocks), {"h": width})
        assert wide.shape == (6 * width,)
        step = (6, 2, 1) if strides[0] == 6 else (2, 2 * width, 1)
        for part, block in enumerate(wide.blocks):
            want = np.add.outer(np.arange(width) * step[0], part * step[1] + np.arange(2))
            np.testing.assert_array_equal(block.axes[0].positions, want)


def test_units_inside_go_with_their_outer_unit() -> None:
    found = typed(SPACES[:2], {"w": ["h i"]})
    labels = {"h": np.array([2, 0]), "i": np.array([[2, 1, 0], [0, 1, 2]])}
    orders = resized_orders(found.initializers["w"], found.spaces, {"h": 3}, labels)
    assert orders is not None
    assert orders[0].tolist() == [8, 7, 6, 0, 1, 2]
    alone = typed(SPACES[:2], {"w": ["h", "i"]})
    orders = resized_orders(alone.initializers["w"], alone.spaces, {"h": 3}, labels)
    assert orders is not None
    assert orders[0].tolist() == [2, 0]


def test_a_layout_has_as_many_positions_as_the_group_has_units_now() -> None:
    layout = typed(SPACES, {"w": ["u", "h i", "u"]}).initializers["w"]
    for width in (2, 7):
        found = resized_layout(layout, {"u": width})
        assert found.shape == (width, 6, width)
        (block,) = found.blocks
        np.testing.assert_array_equal(block.axes[0].positions, np.arange(width))
        np.testing.assert_array_equal(block.axes[2].positions, np.arange(width))
        assert block.axes[1] is layout.blocks[0].axes[1]
    assert resized_axes(layout, {"u"}) == [0, 2]


def test_every_block_along_another_axis_is_resized() -> None:
    found = typing([fixed("x", 4), fixed("y", 2), Space("a", 3)], {"w": [["x", "y"], "a"]})
    layout = resized_layout(found.initializers["w"], {"a": 5})
    assert layout.shape == (6, 5)
    assert [block.axes[1].positions.size for block in layout.blocks] == [5, 5]
    assert [block.axes[0].positions.tolist() for block in layout.blocks] == [[0, 1, 2, 3], [4, 5]]


def test_what_has_no_other_width_stays_as_it_is() -> None:
    found = typed(SPACES, {"w": ["u", "h i"]})
    assert resized_layout(found.initializers["w"], {"other": 3}) is found.initializers["w"]
    assert resized_spaces(found.spaces, {}) is found.spaces
    assert {name: space.size for name, space in resized_spaces(found.spaces, {"u": 9}).items() if name == "u"} == {
        "u": 9
    }
