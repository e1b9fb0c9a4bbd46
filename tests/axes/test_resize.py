"""Groups of another size: which can have one, and where their units stand then."""

from __future__ import annotations

import numpy as np

from onnxmerge.axes.layout import Space
from onnxmerge.axes.resize import axes_of, plain_spaces, resized_layout, resized_spaces
from tests.layouts import typed
from tests.matching.structures import fixed, typing

SPACES = [Space("h", 2), Space("i", 3, ("h",)), Space("u", 5), Space("one", 1)]


def test_plain_spaces_stand_alone_and_depend_on_nothing() -> None:
    found = typed(SPACES, {"w": ["u", "h i"], "v": ["one", "4"]}, {"a": ["2", "u"]})
    assert plain_spaces(found) == ["u"]


def test_a_space_beside_another_on_its_axis_is_not_plain() -> None:
    found = typing([fixed("x", 4), Space("a", 2), Space("b", 3)], {"w": [["a", "b"], "x"], "v": ["b"]})
    assert plain_spaces(found) == []


def test_an_outer_space_is_not_plain_even_alone_on_its_axes() -> None:
    assert plain_spaces(typed(SPACES[:2], {"q": ["h", "i"]})) == []


def test_a_layout_has_as_many_positions_as_the_group_has_units_now() -> None:
    layout = typed(SPACES, {"w": ["u", "h i", "u"]}).initializers["w"]
    for width in (2, 7):
        found = resized_layout(layout, {"u": width})
        assert found.shape == (width, 6, width)
        (block,) = found.blocks
        np.testing.assert_array_equal(block.axes[0].positions, np.arange(width))
        np.testing.assert_array_equal(block.axes[2].positions, np.arange(width))
        assert block.axes[1] is layout.blocks[0].axes[1]
    assert axes_of(layout, {"u"}) == {0: "u", 2: "u"}


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
