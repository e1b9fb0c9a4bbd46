"""Options that have no effect are refused, and so are numbers that cannot be meant."""

from __future__ import annotations

import math
from typing import Any

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.consistency import USES, require_consistent
from onnxmerge.pipeline.methods import METHODS
from onnxmerge.pipeline.options import EFFORTS, Effort, MergeOptions, merge_options
from onnxmerge.pipeline.selection.effort import ways

CHANGED: dict[str, Any] = {
    "alpha": 0.3,
    "objective": "inner",
    "zip_a": 0.3,
    "zip_b": 0.3,
    "zip_unit": "member",
    "groups": (GroupRule("p0", pin=True),),
    "rotate": True,
}
USED = {
    "average": {"rotate"},
    "rebasin": {"objective", "groups", "rotate"},
    "act-align": {"groups", "rotate"},
    "mudsc-align": {"alpha", "groups", "rotate"},
    "zipit": {"zip_a", "zip_b", "zip_unit", "groups"},
    "weight-zip": {"zip_a", "zip_b", "zip_unit", "groups"},
    "mudsc-zip": {"alpha", "zip_a", "zip_b", "zip_unit", "groups"},
    "c2m3": {"alpha", "groups", "rotate"},
    **{name: set() for name in TASK_VECTORS},
    "auto": {"alpha", "zip_a", "zip_b", "zip_unit", "groups", "rotate"},
}


def check(options: MergeOptions, *, based: bool = False) -> None:
    (how, *_) = ways(options.settled(), 2, calibrated=True)
    require_consistent(how, 2, calibrated=True, labelled=how.chooses_models, based=based)


def test_every_method_is_in_the_table() -> None:
    assert set(USED) == {*METHODS, "auto"}
    own = {option for matcher in MATCHERS.values() for option in matcher.option_names}
    assert {*CHANGED, "output_mean", "within", "smallest_in"} == own | set(USES)


def test_an_embedding_s_mean_is_of_the_ensemble_s_answer() -> None:
    check(MergeOptions(output_mean="drop"))
    check(MergeOptions(method="zipit", answer="ensemble", output_mean="drop"))
    with pytest.raises(UsageError, match="--output-mean is for --answer ensemble"):
        check(MergeOptions(method="zipit", output_mean="drop"))


def test_what_outputs_mean_is_seen_in_data() -> None:
    check(MergeOptions(outputs="logits"))
    with pytest.raises(UsageError, match="--outputs says what is measured"):
        require_consistent(
            MergeOptions(method="rebasin", outputs="logits").settled(), 2, calibrated=False, labelled=False, based=False
        )


def test_an_effort_or_one_way() -> None:
    assert MergeOptions().settled().effort == "balanced"
    assert merge_options({"alpha": 0.3}).settled().method == "mudsc-align"
    for given in ({"method": "zipit"}, {"alpha": 0.3}, {"refine": "ls"}):
        with pytest.raises(UsageError, match="--effort fast finds out how to merge: leave out --"):
            merge_options({"effort": "fast", **given}).settled()


def test_settling_twice_changes_nothing() -> None:
    for options in (MergeOptions(), MergeOptions(refine="ls"), merge_options({"method": "auto", "alpha": "auto"})):
        assert options.settled().settled() == options.settled()


def test_what_an_effort_tries_can_be_done() -> None:
    """Each way is one that a user could ask for, and all are different."""
    for effort in EFFORTS:
        every = ways(MergeOptions(effort=effort).settled(), 3, calibrated=True)
        assert len(set(every)) == len(every)
        for how in every:
            require_consistent(how, 3, calibrated=True, labelled=False, based=False)
            assert how == how.settled()


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("effort", EFFORTS)
def test_with_a_base_what_was_learnt_is_added_up(effort: Effort, models: int, *, calibrated: bool) -> None:
    every = ways(MergeOptions(effort=effort).settled(), models, calibrated=calibrated, based=True)
    assert len(set(every)) == len(every)
    assert len(every) == 1 if effort == "fast" or not calibrated else len(every) > 1
    for how in every:
        require_consistent(how, models, calibrated=calibrated, labelled=False, based=True)
        assert how.task_vectors is not None
        assert how == how.settled()


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("method", USED)
def test_an_option_is_taken_where_it_has_an_effect_alone(method: str, name: str) -> None:
    options: dict[str, Any] = {"method": method, name: CHANGED[name]}
    based = method in TASK_VECTORS and "base" in TASK_VECTORS[method].needs
    check(MergeOptions(method=method), based=based)
    if name in USED[method]:
        check(merge_options(options), based=based)
    elif name == "objective" and method == "c2m3":
        check(merge_options({**options, "alpha": 1}))
    else:
        with pytest.raises(UsageError, match=f"{name.replace('_', '-')}|zips"):
            check(merge_options(options), based=based)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.5}, "--alpha"),
        ({"alpha": math.nan}, "--alpha"),
        ({"seed": -1}, "--seed"),
        ({"seed": 10**5000}, "--seed"),
        ({"samples": 0}, "--samples"),
        ({"batch_size": 0}, "--batch-size"),
        ({"method": "zipit", "zip_a": math.inf}, "--zip-a"),
        ({"method": "zipit", "width": "auto", "within": math.nan}, "--within"),
        ({"method": "zipit", "width": "auto", "within": -1}, "--within"),
        ({"method": "zipit", "width": "auto", "smallest_in": "bytes"}, "--smallest-in"),
        ({"method": "zipit", "width": "p0=nan"}, "--width"),
        ({"method": "zipit", "width": "p0=3"}, "--width"),
        ({"method": "zipit", "zip_b": -0.1}, "--zip-b"),
        ({"heads": "joint", "until": ("n",)}, "--until"),
        ({"share": math.nan}, "--share"),
        ({"weights": (1, math.nan)}, "--weights"),
    ],
)
def test_numbers_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(merge_options(options))


def test_samples_are_of_data() -> None:
    options = MergeOptions(method="rebasin", samples=9)
    with pytest.raises(UsageError, match="--samples"):
        require_consistent(options.settled(), 2, calibrated=False, labelled=False, based=False)
