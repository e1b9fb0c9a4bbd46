"""Answers that are directions: each network counts where its own answers vary."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.merging.closed_form.consensus import consensus
from onnxmerge.merging.skewness import is_direction
from onnxmerge.types import Rows

RNG = np.random.default_rng(0)


def answers(basis: Rows, seed: int, samples: int = 400) -> Rows:
    """Rows that vary along the rows of ``basis`` alone, about a point that is far out."""
    noise = np.random.default_rng(seed).normal(size=(samples, len(basis)))
    return (noise @ basis + 3).astype(np.float32)


def test_equal_answers_stay_as_they_are() -> None:
    own = answers(np.eye(6, 20, dtype=np.float32), 1)
    agreed = consensus([own, own], [0.3, 0.7]).at_length([own, own])
    np.testing.assert_allclose(agreed, own, rtol=1e-4, atol=1e-4)


def test_equal_answers_that_hardly_vary_stay_as_they_are() -> None:
    own = answers(np.eye(6, 20, dtype=np.float32), 1) + 3000
    rule = consensus([own, own], [0.5, 0.5])
    assert rule.volume == pytest.approx(1, abs=1e-3)


def test_an_answer_is_as_long_as_those_that_it_agrees_on() -> None:
    own = answers(np.eye(6, 20, dtype=np.float32), 1)
    agreed = consensus([own, 3 * own], [0.5, 0.5]).at_length([own, 3 * own])
    np.testing.assert_allclose(agreed, 2 * own, rtol=1e-4, atol=1e-4)


def test_each_speaks_at_full_volume_where_it_alone_has_something_to_say() -> None:
    """The plain mean would halve what either says."""
    bases = [np.eye(20, dtype=np.float32)[:6], np.eye(20, dtype=np.float32)[6:12]]
    one, other = (answers(basis, seed) for seed, basis in enumerate(bases))
    rule = consensus([one, other], [0.5, 0.5])
    agreed = rule([one, other])
    for basis, own in zip(bases, (one, other), strict=True):
        scaled = own * (rule.length / np.linalg.norm(own, axis=1, keepdims=True))
        said, meant = ((rows - rows.mean(axis=0)) @ basis.T for rows in (agreed, scaled))
        slope = float((said * meant).sum() / (meant * meant).sum())
        assert 0.8 < slope <= 1.0


def test_what_varies_fills_up_what_means_lose_where_they_cancel() -> None:
    """Else the answers would be shorter than the models', and a reader of directions would hear little but the mean."""
    one, other = (answers(np.eye(20, dtype=np.float32)[:6], seed) for seed in (1, 2))
    far = np.concatenate([np.full(10, 6), np.zeros(10)]).astype(np.float32)
    other -= far
    rule = consensus([one, other], [0.5, 0.5])
    agreed = rule([one, other])
    assert rule.volume > 1.5
    np.testing.assert_allclose(np.sqrt(np.square(agreed).sum(axis=1).mean()), rule.length, rtol=1e-3)
    np.testing.assert_allclose(agreed.mean(axis=0), rule.centre, atol=1e-3)


def test_shares_tip_the_scale_where_both_speak() -> None:
    basis = np.eye(20, dtype=np.float32)[:6]
    one, other = answers(basis, 1), answers(basis, 2)
    near = [
        float(np.square(consensus([one, other], [share, 1 - share])([one, other]) - one).mean()) for share in (0.9, 0.5)
    ]
    assert near[0] < near[1]


@pytest.mark.parametrize(("rows", "expected"), [(RNG.normal(size=(50, 40)), True), (np.eye(40)[:30] * 9.0, False)])
def test_directions_are_told_from_logits(rows: Rows, *, expected: bool) -> None:
    assert is_direction(rows.astype(np.float32)) is expected
