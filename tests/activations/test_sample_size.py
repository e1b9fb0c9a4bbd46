"""How many samples are taken of plenty: as many as the units of the widest space need to be told apart."""

from __future__ import annotations

from onnxmerge.activations.measuring import POSITIONS
from onnxmerge.activations.sample_size import FEWEST, LEAST, ROWS_PER_UNIT, enough, too_few
from onnxmerge.activations.statistics import GramRequest
from onnxmerge.units.layout import Space
from tests.layouts import typed

SPACES = [Space("wide", 1000), Space("h", 4), Space("i", 100, ("h",))]


def test_a_dense_layer_needs_a_sample_for_each_row() -> None:
    typing = typed(SPACES, {}, {"a": ["2", "wide"]})
    assert enough(typing, [GramRequest("wide", ("a",))], traced=2) == ROWS_PER_UNIT * 1000


def test_positions_count_as_far_as_they_are_measured() -> None:
    typing = typed(SPACES, {}, {"a": ["2", "10", "wide"], "b": ["2", str(POSITIONS * 9), "wide"]})
    assert enough(typing, [GramRequest("wide", ("a",))], traced=2) == ROWS_PER_UNIT * 100
    assert enough(typing, [GramRequest("wide", ("b",))], traced=2) == max(LEAST, ROWS_PER_UNIT * 1000 // POSITIONS)


def test_units_inside_others_are_counted_together() -> None:
    typing = typed(SPACES, {}, {"a": ["1", "20", "h i"]})
    assert enough(typing, [GramRequest("i", ("a",))], traced=1) == ROWS_PER_UNIT * 400 // 20


def test_never_less_than_a_mean_needs() -> None:
    assert enough(typed(SPACES, {}, {}), [], traced=1) == LEAST


def test_what_is_too_few_says_how_many_the_widest_group_needs() -> None:
    typing = typed(SPACES, {}, {"a": ["2", "wide"], "b": ["2", "h i"]})
    requests = [GramRequest("wide", ("a",)), GramRequest("i", ("b",))]
    told = "999 calibration samples are few: the widest group, wide of 1,000 units, needs 1,000 or more to tell its"
    assert (too_few(typing, requests, 2, 999) or "").startswith(told)
    assert too_few(typing, requests, 2, 1000) is None
    told = f"1 calibration sample is few: the mean and deviation of each unit need {FEWEST} or more"
    assert too_few(typing, [], 2, 1) == told
    assert too_few(typing, [], 2, FEWEST) is None
