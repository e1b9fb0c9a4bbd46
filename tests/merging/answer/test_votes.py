"""What parents know is found from how they answer the same samples, without labels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from onnxmerge.merging.answer.ensemble import Reading
from onnxmerge.merging.answer.votes import votes_of

CLASSES = 5
KNOWS = {  # how often each parent is right, class by class
    "one is bad": ((0.95,) * 5, (0.95,) * 5, (0.3,) * 5),
    "alike": ((0.9,) * 5, (0.9,) * 5, (0.9,) * 5),
    "each knows some": ((0.98, 0.98, 0.98, 0.3, 0.3), (0.3, 0.98, 0.98, 0.98, 0.3), (0.98, 0.3, 0.3, 0.98, 0.98)),
}


def answers(recalls: tuple[float, ...], right: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Logits of a parent that is right on such shares of each class, and less sure where it is wrong."""
    rng = np.random.default_rng(seed)
    fails = rng.random(len(right)) >= np.array(recalls)[right]
    said = np.where(fails, (right + rng.integers(1, CLASSES, len(right))) % CLASSES, right)
    found = rng.normal(size=(len(right), CLASSES)) + np.where(fails, 2.5, 5.0)[:, None] * np.eye(CLASSES)[said]
    return found.astype(np.float32)


@pytest.mark.parametrize("scale", [1e-2, 1, 1e2])
@pytest.mark.parametrize("known", KNOWS)
def test_accuracies_are_found_whatever_logits_are_measured_in(known: str, scale: float) -> None:
    right = np.random.default_rng(0).integers(0, CLASSES, 2000)
    parents = [answers(recalls, right, 1 + index) * np.float32(scale) for index, recalls in enumerate(KNOWS[known])]
    votes = votes_of([own[:1000] for own in parents])
    rest, truth = [own[1000:] for own in parents], right[1000:]
    true = [(own.argmax(axis=1) == truth).mean() for own in rest]
    np.testing.assert_allclose(votes.accuracies(rest), true, atol=0.03)
    together = np.mean([softmax(own / scale, axis=1) for own in rest], axis=0).argmax(axis=1) == truth
    chances = votes.chances(rest)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances.argmax(axis=1) == truth).mean() >= together.mean() - 0.005


def test_a_score_is_the_chance_of_what_is_answered() -> None:
    right = np.random.default_rng(0).integers(0, CLASSES, 500)
    parents = [answers(recalls, right, 1 + index) for index, recalls in enumerate(KNOWS["alike"])]
    votes = votes_of(parents)
    best = np.eye(CLASSES)[right].astype(np.float32)
    scores = [float(votes(each, parents).mean()) for each in (best, parents[0], -best)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    assert scores[2] < 0.1


def test_embeddings_are_read_by_their_class_vectors() -> None:
    right = np.random.default_rng(0).integers(0, CLASSES, 500)
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(CLASSES, CLASSES)))[0].astype(np.float32)
    reading = Reading([vectors] * 3)
    assert reading.shared
    parents = [answers(recalls, right, 1 + index) @ vectors for index, recalls in enumerate(KNOWS["one is bad"])]
    found = votes_of(parents, reading).accuracies(parents)
    np.testing.assert_allclose(found, [0.95, 0.95, 0.3], atol=0.05)
    assert not Reading([vectors, vectors.copy()]).shared


def test_values_that_are_not_finite_have_no_chance() -> None:
    parents = [np.full((50, CLASSES), np.nan, np.float32)] * 2
    assert np.isnan(votes_of(parents)(parents[0], parents)).all()
