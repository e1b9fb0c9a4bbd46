"""From layouts to [samples, units] matrices."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.activations.columns import Factor, unit_columns
from onnxmerge.errors import InputError
from onnxmerge.units.layout import AxisBlock, Block, TensorLayout


def axis(positions: object, *spaces: str) -> AxisBlock:
    return AxisBlock(spaces, np.asarray(positions, np.int64))


def layout(shape: tuple[int, ...], *blocks: tuple[AxisBlock, ...]) -> TensorLayout:
    return TensorLayout("t", shape, tuple(Block(axes) for axes in blocks))


def test_channels_are_units_and_the_rest_samples_of_any_length() -> None:
    (view,) = unit_columns(
        layout((2, 3, 4, 4), (axis(range(2)), axis(range(3), "c"), axis(range(4)), axis(range(4)))), ["c"]
    )
    assert view.units == 3
    assert [part.factors for part in view.axes] == [
        (Factor(None, None),),
        (Factor(3, 0),),
        (Factor(None, None),),
        (Factor(None, None),),
    ]
    assert all(part.positions is None for part in view.axes)
    assert not view.others


def test_part_of_a_concat_takes_its_positions() -> None:
    fused = layout((2, 5), (axis(range(2)), axis([0, 1], "a")), (axis(range(2)), axis([2, 3, 4], "b")))
    (view,) = unit_columns(fused, ["b"])
    assert view.axes[1].positions is not None
    assert view.axes[1].positions.tolist() == [2, 3, 4]
    assert unit_columns(fused, ["absent"]) == ()


def test_one_space_twice_on_an_axis_gives_two_views() -> None:
    fused = layout((2, 4), (axis(range(2)), axis([0, 1], "a")), (axis(range(2)), axis([2, 3], "a")))
    assert len(unit_columns(fused, ["a"])) == 2


def test_blocks_that_differ_along_samples_are_one_view() -> None:
    tokens = layout(
        (2, 5, 3),
        (axis([0, 1]), axis([0]), axis(range(3), "c")),
        (axis([0, 1]), axis([1, 2, 3, 4]), axis(range(3), "c")),
    )
    (view,) = unit_columns(tokens, ["c"])
    assert view.axes[1].positions is None


def test_part_of_the_sample_axis_is_taken_by_position() -> None:
    tokens = layout(
        (2, 5, 3),
        (axis([0, 1]), axis([0]), axis(range(3), "a")),
        (axis([0, 1]), axis([1, 2, 3, 4]), axis(range(3), "b")),
    )
    (view,) = unit_columns(tokens, ["b"])
    assert view.axes[1].positions is not None
    assert view.axes[1].positions.tolist() == [1, 2, 3, 4]


def test_leftover_spaces_are_samples_and_are_named() -> None:
    flat = layout((2, 12), (axis(range(2)), axis(np.arange(12).reshape(3, 4), "c", "w")))
    (view,) = unit_columns(flat, ["c"])
    assert view.axes[1].factors == (Factor(3, 0), Factor(None, None))
    assert view.others == {"w"}


def test_what_is_folded_into_an_axis_of_units_is_as_long_as_the_data() -> None:
    """Batch and positions before heads: together one factor, whose length the trace does not say."""
    folded = layout((24, 5), (axis(np.arange(24).reshape(2, 4, 3), "b", "t", "h"), axis(range(5), "d")))
    (view,) = unit_columns(folded, ["h", "d"])
    assert view.axes[0].factors == (Factor(None, None), Factor(3, 0))
    around = layout((24, 5), (axis(np.arange(24).reshape(2, 3, 4), "b", "h", "t"), axis(range(5), "d")))
    (view,) = unit_columns(around, ["h", "d"])
    assert view.axes[0].factors == (Factor(None, None), Factor(3, 0), Factor(4, None))
    some = layout((24, 5), (axis(np.arange(12).reshape(4, 3), "t", "h"), axis(range(5), "d")))
    (view,) = unit_columns(some, ["h", "d"])
    assert view.axes[0].factors == (Factor(4, None), Factor(3, 0))


def test_composite_order_counts_not_the_order_of_axes() -> None:
    (view,) = unit_columns(layout((2, 4, 3), (axis(range(2)), axis(range(4), "d"), axis(range(3), "h"))), ["h", "d"])
    assert view.sizes == (3, 4)
    assert view.axes[1].factors == (Factor(4, 1),)


def test_a_space_on_two_axes_has_no_view() -> None:
    assert unit_columns(layout((3, 3), (axis(range(3), "c"), axis(range(3), "c"))), ["c"]) == ()


def test_missing_outer_space_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'t'.*'d' varies with 'h'"):
        unit_columns(layout((2, 4), (axis(range(2)), axis(range(4), "d"))), ["h", "d"])
