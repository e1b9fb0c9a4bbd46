from __future__ import annotations

import pytest

from onnxmerge.errors import StructureError
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Space
from tests.matching.structures import (
    attention,
    batch_norm,
    depthwise_convolution,
    fixed,
    group_norm,
    grouped_convolution,
    mlp,
    recurrent,
    three_levels,
    typing,
)


def test_plain_spaces_are_groups_of_their_own() -> None:
    plan = make_plan(mlp())
    assert list(plan.groups) == ["a", "b"]
    assert plan.groups["a"].members == ("a",)
    assert set(plan.graph["a"]) == {"b"}
    assert [occurrence.layout.name for occurrence in plan.groups["a"].occurrences] == ["w1", "b1", "w2"]


def test_statistics_are_not_part_of_a_unit() -> None:
    tensors = {occurrence.layout.name for occurrence in make_plan(batch_norm()).groups["s"].occurrences}
    assert tensors == {"stem", "conv1", "conv2", "head", "n1.scale"}


def test_heads_hold_their_inner_units() -> None:
    plan = make_plan(attention())
    assert list(plan.groups) == ["s", "h"]
    assert plan.groups["h"].members == ("h", "qk", "v")
    assert plan.groups["h"].children == {"h": ("qk", "v"), "qk": (), "v": ()}
    assert not any(occurrence.linked for occurrence in plan.groups["h"].occurrences)


def test_a_stream_on_both_sides_is_its_own_neighbour() -> None:
    plan = make_plan(group_norm())
    group = plan.groups["g"]
    assert set(plan.graph["g"]) == {"g", "h"}
    assert plan.moves_itself(group)
    conv = [occurrence for occurrence in group.occurrences if occurrence.layout.name == "conv"]
    assert [occurrence.kept for occurrence in conv] == [((0, 0), (0, 1)), ((1, 0), (1, 1))]
    assert [occurrence.moved for occurrence in conv] == [{(1, 0), (1, 1)}, {(0, 0), (0, 1)}]


def test_grouped_convolution_links_inputs_and_outputs() -> None:
    group = make_plan(grouped_convolution()).groups["g"]
    linked = [occurrence for occurrence in group.occurrences if occurrence.linked]
    assert [(occurrence.layout.name, occurrence.labels) for occurrence in linked] == [("grouped", ("g", "o", "i"))]
    assert linked[0].outer == ((), (0,), (0,))


def test_fixed_outer_space_is_kept_beside_its_units() -> None:
    plan = make_plan(recurrent())
    assert list(plan.groups) == ["h"]
    assert [occurrence.labels for occurrence in plan.groups["h"].occurrences] == [("d", "h")] * 5


def test_three_levels_are_one_group() -> None:
    group = make_plan(three_levels()).groups["g"]
    assert group.members == ("g", "h", "o", "d", "e")
    assert group.children == {"g": ("h", "o"), "h": ("d", "e"), "o": (), "d": (), "e": ()}


def test_single_units_are_not_matched() -> None:
    plan = make_plan(depthwise_convolution())
    assert plan.groups["g"].members == ("g",)
    assert not plan.skipped


@pytest.mark.parametrize(
    ("outer", "reason"),
    [
        (Space("b", 3), "do not nest"),
        (Space("b", 3, ("x",)), "does not vary with"),
    ],
)
def test_what_does_not_nest_is_left_alone(outer: Space, reason: str) -> None:
    spaces = [fixed("x", 2), Space("a", 2), outer, Space("u", 4, ("a", "b")), Space("w", 2, ("u", "a", "b"))]
    plan = make_plan(typing(spaces, {"t": ["x", "a", "b", "u", "w"]}))
    assert list(plan.groups) == ["a", "b"]
    assert reason in plan.skipped["u"]
    assert plan.skipped.keys() == {"u", "w"}
    assert not plan.spaces["u"].free


def test_what_is_inside_a_space_left_alone_is_left_alone_too() -> None:
    spaces = [Space("a", 2), Space("b", 3), Space("u", 4, ("a", "b")), Space("w", 2, ("a", "u"))]
    plan = make_plan(typing(spaces, {"t": ["a", "b", "u", "w"]}))
    assert "u is not matched" in plan.skipped["w"]


def test_outer_space_missing_from_a_tensor_is_an_error() -> None:
    with pytest.raises(StructureError, match="tensor t: space u varies with a"):
        make_plan(typing([Space("a", 2), Space("u", 4, ("a",))], {"t": ["u"]}))
