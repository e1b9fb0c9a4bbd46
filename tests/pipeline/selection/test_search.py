"""``method="auto"`` and ``alpha="auto"``: what is tried, what decides, and what is said about it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.api import MergeOptions, merge, permute
from onnxmerge.errors import InputError, UsageError
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.pipeline import matching
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.options import merge_options
from onnxmerge.pipeline.selection.search import choices
from tests.graphs import build, execute, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"
PAIRWISE = [name for name, matcher in MATCHERS.items() if matcher.least_models == 2]
X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)


def tried(models: int = 2, **settings: Any) -> list[tuple[str, float | None]]:
    """The candidates, as method and alpha."""
    return [(how.method, how.alpha) for how in choices(merge_options(settings).settled(), models)]


def network(seed: int) -> onnx.ModelProto:
    return build(GRAPH, normal(w1=(8, 6), b1=(8,), w2=(8, 3), seed=seed))


def test_the_ends_of_the_grid_are_the_methods_of_one_similarity() -> None:
    found = tried(method="mudsc-zip", alpha="auto")
    assert found[0] == ("zipit", 0.0)
    assert found[-1] == ("weight-zip", 1.0)
    assert {method for method, _ in found[1:-1]} == {"mudsc-zip"}
    assert [alpha for _, alpha in found] == pytest.approx(np.linspace(0, 1, 11))


def test_method_auto_tries_every_method_once_at_a_given_alpha() -> None:
    found = tried(method="auto", alpha=0.3)
    assert [method for method, _ in found] == PAIRWISE
    assert ("mudsc-align", 0.3) in found
    for given in ({"refine": "regmean"}, {"rotate": True}):
        assert all(not MATCHERS[method].zips for method, _ in tried(method="auto", **given))


def test_joint_methods_are_tried_for_more_than_two_models() -> None:
    assert ("c2m3", 0.3) in tried(3, method="auto", alpha=0.3)
    every = tried(3, method="auto", alpha="auto")
    assert [alpha for name, alpha in every if name == "c2m3"] == pytest.approx(np.linspace(0, 1, 11))
    report = merge([network(1), network(2), network(3)], calibration={"x": X}, method="auto", repair="none").report
    assert report.search is not None
    assert "c2m3" in {candidate.method for candidate in report.search.candidates}


def test_of_a_model_and_its_permuted_copy_any_matching_is_chosen(tmp_path: Path) -> None:
    copy = onnx.load(permute(network(1), seed=2).save(tmp_path / "copy.onnx"))
    result = merge([network(1), copy], calibration={"x": X}, method="auto")
    searched = result.report.search
    assert searched is not None
    assert searched.samples == 100
    scores = {candidate.method: candidate.reconstruction for candidate in searched.candidates}
    assert scores.pop("average") < 0.9
    assert min(scores.values()) > 0.99
    assert result.report.method != "average"
    merged = onnx.load(result.save(tmp_path / "m.onnx"))
    np.testing.assert_allclose(execute(merged, {"x": X})["y"], execute(network(1), {"x": X})["y"], atol=1e-4)


def test_what_was_chosen_is_what_is_merged_and_said(tmp_path: Path) -> None:
    parents = [network(1), network(2)]
    settings: dict[str, Any] = {"calibration": {"x": X}, "samples": 300, "provider": "cpu"}
    result = merge(parents, method="mudsc-align", alpha="auto", **settings)
    searched = result.report.search
    assert searched is not None
    assert searched.criterion == "reconstruction"
    assert searched.samples == 60
    assert len(searched.candidates) == 11
    best = max(searched.candidates, key=lambda candidate: candidate.reconstruction)
    assert (result.report.method, result.report.alpha) == (best.method, best.alpha)
    properties = {p.key: p.value for p in onnx.load(result.save(tmp_path / "m.onnx")).metadata_props}
    assert properties["onnxmerge.method"] == best.method
    assert float(properties["onnxmerge.alpha"]) == best.alpha
    assert properties["onnxmerge.search"] == "11 candidates by reconstruction"
    again = merge(parents, method="mudsc-align", alpha="auto", **settings)
    assert asdict(searched) == asdict(again.report.search or replace(searched, samples=0))
    assert (tmp_path / "m.onnx").read_bytes() == again.save(tmp_path / "again.onnx").read_bytes()


def test_labels_decide_by_accuracy(tmp_path: Path) -> None:
    copy = onnx.load(permute(network(1), seed=2).save(tmp_path / "copy.onnx"))
    labels = execute(network(1), {"x": X})["y"].argmax(axis=1)
    result = merge([network(1), copy], calibration={"x": X}, labels=labels, method="auto", repair="none")
    searched = result.report.search
    assert searched is not None
    assert searched.criterion == "accuracy"
    right = {candidate.method: candidate.accuracy for candidate in searched.candidates}
    assert right[result.report.method] == 1.0
    assert (right["average"] or 0.0) < 1.0
    wrong = merge(
        [network(1), copy], calibration={"x": X}, labels=(labels + 1) % 3, method="auto", repair="none"
    ).report
    assert wrong.method == "average"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "rebasin", "alpha": "auto"},
            "--alpha is for methods mudsc-align, mudsc-zip, c2m3; method rebasin does not use it",
        ),
        (
            {"method": "auto", "objective": "inner"},
            "--objective is for methods rebasin, c2m3; method auto does not use it",
        ),
        ({"method": "auto", "calibration": None}, "give calibration data"),
        ({"labels": np.zeros(500, int), "repair": "none"}, "--labels decide a choice"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merge([network(1), network(2)], **{"calibration": {"x": X}, **settings})


def test_labels_and_data_that_do_not_fit_are_refused() -> None:
    pair = [network(1), network(2)]
    for options in (MergeOptions(method="auto"), MergeOptions()):  # a search by labels, and a repair chosen by them
        with pytest.raises(InputError, match="found 99 labels, expected one for each of the 500 calibration samples"):
            merge(pair, calibration={"x": X}, labels=np.zeros(99, int), options=options)
        with pytest.raises(InputError, match="label 7, the model tells 3 classes apart"):
            merge(pair, calibration={"x": X}, labels=np.full(500, 7), options=options)
        with pytest.raises(InputError, match="whole numbers"):
            merge(pair, calibration={"x": X}, labels=np.full(500, 0.5), options=options)
    with pytest.raises(InputError, match="none of the 100 held-out samples has a label"):
        merge(pair, calibration={"x": X}, method="auto", labels=np.where(np.arange(500) == 0, 1, -1))
    with pytest.raises(InputError, match="fewer than five"):
        merge(pair, calibration={"x": X[:1]}, method="auto")


def test_samples_without_a_label_do_not_decide() -> None:
    labels = execute(network(1), {"x": X})["y"].argmax(axis=1)
    some = np.where(np.arange(500) % 3 == 0, labels, -1)
    found = merge([network(1), network(1)], calibration={"x": X}, labels=some, method="auto", repair="none").report
    assert found.search is not None
    assert found.search.candidates[found.search.chosen].accuracy == 1


def test_least_squares_follows_the_matching_that_was_chosen() -> None:
    found = merge([network(1), network(2)], calibration={"x": X}, method="auto", refine="ls", provider="cpu").report
    assert found.repair.startswith("least squares")
    assert found.search is not None
    assert len(found.search.candidates) == len(PAIRWISE)


def test_a_candidate_that_cannot_be_merged_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a float16 network of which one average overflows where its parents and other averages do not."""
    done = matching._matched

    def matched(job: Job, measurements: Measurements) -> MatchResult:
        if job.options.method.endswith("zip"):
            raise InputError("tensor h: activations on the calibration data are not finite")
        return done(job, measurements)

    monkeypatch.setattr(matching, "_matched", matched)
    pair = [network(1), network(2)]
    report = merge(pair, calibration={"x": X}, method="auto").report
    assert report.search is not None
    tried = [candidate.method for candidate in report.search.candidates]
    assert tried == [method for method in PAIRWISE if not method.endswith("zip")]
    assert report.method == tried[report.search.chosen]
    assert any("mudsc-zip was left out: tensor h" in note for note in report.notes)
    monkeypatch.setattr(
        "onnxmerge.pipeline.selection.search.choices", lambda _options, _models: (MergeOptions("mudsc-zip"),)
    )
    with pytest.raises(InputError, match="none of 1 candidates can be merged: mudsc-zip was left out"):
        merge(pair, calibration={"x": X}, method="auto")
