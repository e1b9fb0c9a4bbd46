"""Cells: refinement, cutting, restriction and unification, each on its own."""

from __future__ import annotations

import pytest

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.structure import Concat, Family, Product, Restriction


@pytest.fixture
def cells() -> Cells:
    return Cells()


def sizes(cells: Cells, found: list[int]) -> list[int]:
    return [cells.size(cell) for cell in found]


def test_unify_makes_one_class(cells: Cells) -> None:
    a, b = cells.new(4), cells.new(4)
    cells.unify(a, b)
    assert cells.find(a) == cells.find(b)


def test_unify_with_a_fixed_cell_fixes_both(cells: Cells) -> None:
    a, b = cells.new(4), cells.new_fixed(4, "because")
    cells.unify(a, b)
    assert cells.fixed(a) == "because"


def test_cells_of_different_sizes_are_fixed_not_joined(cells: Cells) -> None:
    a, b = cells.new(4), cells.new(5)
    cells.unify(a, b)
    assert cells.fixed(a) is not None
    assert cells.fixed(b) is not None
    assert cells.find(a) != cells.find(b)


def test_split_refines_to_a_product_and_is_stable(cells: Cells) -> None:
    whole = cells.new(12)
    first = cells.split(whole, [3, 4])
    again = cells.split(whole, [3, 4])
    assert [cells.find(c) for c in first] == [cells.find(c) for c in again]
    assert isinstance(cells.structure(whole), Product)


def test_two_splits_have_a_common_refinement(cells: Cells) -> None:
    whole = cells.new(24)
    cells.split(whole, [2, 12])
    cells.split(whole, [6, 4])
    assert sizes(cells, list(cells.factors(whole))) == [2, 3, 4]


def test_splits_of_other_widths_leave_the_segments_that_both_see(cells: Cells) -> None:
    whole = cells.new(24)
    cells.split(whole, [4, 6])
    outer, inner = cells.split(whole, [6, 4])
    assert sizes(cells, [outer, inner]) == [6, 4]
    assert cells.fixed(whole) is None
    units = [sizes(cells, list(cells.leaf_parts(member))) for member in cells.family(inner).values()]
    assert units == [[4], [2, 2], [4], [4], [2, 2], [4]]


def test_splits_into_too_many_segments_fix(cells: Cells) -> None:
    whole = cells.new(600)
    cells.split(whole, [100, 6])
    found = cells.split(whole, [75, 8])
    assert cells.fixed(whole) is not None
    assert all(cells.fixed(c) for c in found)


def test_regroup_is_reshape(cells: Cells) -> None:
    heads, width = cells.new(4), cells.new(32)
    (merged,) = cells.regroup([heads, width], [128])
    assert [cells.find(c) for c in cells.split(merged, [4, 32])] == [cells.find(heads), cells.find(width)]


def test_fixing_a_product_fixes_its_factors_but_not_the_other_way(cells: Cells) -> None:
    whole = cells.new(12)
    outer, inner = cells.split(whole, [3, 4])
    cells.fix(outer, "index")
    assert cells.fixed(whole) is None
    assert cells.fixed(inner) is None
    cells.fix(whole, "all")
    assert cells.fixed(inner) == "all"


def test_cut_makes_segments_and_restricts_its_neighbours(cells: Cells) -> None:
    three, heads = cells.new(3), cells.new(4)
    members = []
    for index in range(3):
        _, restrictions = cells.cut(three, index, index + 1)
        members.append(cells.restrict_all(heads, restrictions))
    assert len({cells.find(m) for m in members}) == 3
    assert isinstance(cells.structure(heads), Family)
    assert len(cells.leaf_parts(three)) == 3


def test_cutting_again_gives_the_same_segment_and_member(cells: Cells) -> None:
    axis, other = cells.new(6), cells.new(5)
    part, restrictions = cells.cut(axis, 2, 4)
    member = cells.restrict_all(other, restrictions)
    part_again, restrictions_again = cells.cut(axis, 2, 4)
    assert cells.find(part_again) == cells.find(part)
    assert cells.find(cells.restrict_all(other, restrictions_again)) == cells.find(member)


def test_collapse_joins_the_members(cells: Cells) -> None:
    three, heads = cells.new(3), cells.new(4)
    members = [cells.restrict_all(heads, cells.cut(three, i, i + 1)[1]) for i in range(3)]
    cells.collapse(heads)
    assert len({cells.find(m) for m in [*members, heads]}) == 1


def test_concats_are_cut_at_each_others_boundaries(cells: Cells) -> None:
    one, other = cells.concat([cells.new(2), cells.new(4)]), cells.concat([cells.new(3), cells.new(3)])
    cells.unify(one, other)
    assert sizes(cells, list(cells.leaf_parts(one))) == [2, 1, 3]
    assert [cells.find(c) for c in cells.leaf_parts(one)] == [cells.find(c) for c in cells.leaf_parts(other)]


def test_product_meets_concat_along_its_outer_factor(cells: Cells) -> None:
    whole = cells.new(8)
    outer, inner = cells.split(whole, [2, 4])
    left, right = cells.new(4), cells.new(4)
    cells.unify(whole, cells.concat([left, right]))
    assert cells.fixed(whole) is None
    parts = cells.leaf_parts(outer)
    members = [cells.find(cells.restrict(inner, Restriction(outer, part))) for part in parts]
    assert members == [cells.find(left), cells.find(right)]


def test_concat_is_split_into_equal_segments(cells: Cells) -> None:
    left, right = cells.new(4), cells.new(4)
    whole = cells.concat([left, right])
    outer, inner = cells.split(whole, [2, 4])
    assert cells.size(outer) == 2
    assert set(map(cells.find, cells.family(inner).values())) == {cells.find(left), cells.find(right)}


def test_a_unit_across_a_boundary_is_a_concatenation(cells: Cells) -> None:
    left, right = cells.new(7), cells.new(5)
    whole = cells.concat([left, right])
    _, inner = cells.split(whole, [3, 4])
    assert sizes(cells, list(cells.leaf_parts(left))) == [4, 3]
    assert sizes(cells, list(cells.leaf_parts(right))) == [1, 4]
    assert [sizes(cells, list(cells.leaf_parts(m))) for m in cells.family(inner).values()] == [[4], [3, 1], [4]]


def test_gates_in_another_order_are_units_of_one_chunk(cells: Cells) -> None:
    """I | o | f c, twice: the bias of an LSTM put together from slices."""
    whole = cells.concat([cells.new(size) for size in (3, 3, 6, 3, 3, 6)])
    outer, gates, units = cells.split(whole, [2, 4, 3])
    assert sizes(cells, [outer, gates, units]) == [2, 4, 3]
    assert cells.fixed(whole) is None


def test_cut_inside_a_unit_fixes(cells: Cells) -> None:
    whole = cells.new(12)
    cells.split(whole, [3, 4])
    part, restrictions = cells.cut(whole, 0, 6)
    assert cells.fixed(whole) is not None
    assert cells.fixed(part) is not None
    assert restrictions == ()


def test_family_that_equals_its_member_does_not_vary(cells: Cells) -> None:
    axis, other = cells.new(2), cells.new(5)
    first = cells.restrict_all(other, cells.cut(axis, 0, 1)[1])
    second = cells.restrict_all(other, cells.cut(axis, 1, 2)[1])
    cells.unify(other, first)
    assert cells.find(second) == cells.find(first) == cells.find(other)


def test_families_of_one_axis_unify_member_by_member(cells: Cells) -> None:
    axis, one, other = cells.new(2), cells.new(5), cells.new(5)
    cuts = [cells.cut(axis, i, i + 1)[1] for i in range(2)]
    ones = [cells.restrict_all(one, c) for c in cuts]
    others = [cells.restrict_all(other, c) for c in cuts]
    cells.unify(one, other)
    assert [cells.find(c) for c in ones] == [cells.find(c) for c in others]
    assert cells.find(ones[0]) != cells.find(ones[1])


def test_every_fix_and_union_is_logged_with_its_place(cells: Cells) -> None:
    a, b = cells.new(4), cells.new(4)
    cells.where = "Add 'add_1'"
    cells.unify(a, b, "same units")
    assert any(e.where == "Add 'add_1'" and {e.cell, e.other} == {a, b} for e in cells.events)
    assert cells.describe(cells.concat([a, cells.new(2)])) == "(4 + 2)"
    assert isinstance(cells.structure(cells.concat([a, b])), Concat)
