from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from onnxmerge.merging.answer.ensemble import (
    AveragedOdds,
    AveragedProbabilities,
    ByLogits,
    ByReading,
    Reading,
    clusters,
    common_embedding,
)

Rows = NDArray[np.float32]


def rows(seed: int, *shape: int) -> Rows:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def disjoint(samples: int = 600, width: int = 24) -> tuple[list[Rows], list[Rows], NDArray[np.int64]]:
    """Answers of two parents that know three directions each and crowd around a mean of their own, vectors, classes.

    Each parent answers with its own class for its own samples, and with any of its own for the others'. Its mean lies
    along a class of the other's, so that the mean of both favours some classes.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0][:6].astype(np.float32)
    vectors = [basis[:3], basis[3:6]]
    label = rng.integers(0, 6, samples)
    answers = []
    for index, own in enumerate(vectors):
        mine = label // 3 == index
        said = np.where(mine, label % 3, rng.integers(0, 3, samples))
        sure = np.where(mine, 1.0, 0.3)[:, None].astype(np.float32)
        answers.append(own[said] * sure + 0.6 * vectors[1 - index][0] + 0.05 * rows(index, samples, width))
    return answers, vectors, label


def test_probabilities_are_averaged_at_the_temperature() -> None:
    one, other = rows(0, 50, 5), rows(1, 50, 5)
    found = AveragedProbabilities((0.25, 0.75), 1.0)([one, other])
    wanted = 0.25 * softmax(one, axis=1) + 0.75 * softmax(other, axis=1)
    np.testing.assert_allclose(softmax(found, axis=1), wanted, atol=1e-3)
    sharp = AveragedProbabilities((0.5, 0.5), 2.0)([one, one])
    np.testing.assert_allclose(softmax(sharp / 2, axis=1), softmax(one / 2, axis=1), atol=1e-3)
    odds = AveragedOdds((0.5, 0.5))([one, other])
    np.testing.assert_allclose(expit(odds), (expit(one) + expit(other)) / 2, atol=1e-3)


@pytest.mark.parametrize("read_by", ["class vectors", "consensus of directions"])
def test_an_embedding_says_what_each_parent_says_of_its_own_classes(read_by: str) -> None:
    answers, vectors, label = disjoint()
    known = Reading(vectors) if read_by == "class vectors" else None
    shares = (0.5, 0.5)
    together = np.concatenate(vectors)

    def joint(found: Rows) -> float:
        return float(((found @ together.T).argmax(axis=1) == label).mean())

    form = common_embedding(answers, shares, known, keeps_mean=True)
    assert form.label == read_by
    found = form(answers)
    np.testing.assert_allclose(found.mean(axis=0), form.agreed.centre, atol=1e-4)
    plain = joint(np.asarray(np.mean(answers, axis=0), np.float32))
    assert joint(found) > plain
    dropped = common_embedding(answers, shares, known, keeps_mean=False)(answers)
    np.testing.assert_allclose(dropped.mean(axis=0), 0, atol=1e-4)
    assert joint(dropped) > plain


def test_agreement_is_highest_for_what_the_ensemble_itself_says() -> None:
    answers, vectors, label = disjoint()
    judge = ByReading(Reading(vectors), (0.5, 0.5))
    right = np.concatenate(vectors)[label]
    wrong = np.concatenate(vectors)[(label + 3) % 6]
    assert judge(right, answers).mean() > judge(wrong, answers).mean()
    logits = [rows(0, 200, 6), rows(1, 200, 6)]
    by_logits = ByLogits((0.5, 0.5))
    ensemble = AveragedProbabilities((0.5, 0.5), 2.0)(logits)
    for other in (*logits, rows(2, 200, 6)):
        assert by_logits(ensemble, logits).mean() >= by_logits(other, logits).mean()


def test_clusters_are_the_same_each_time() -> None:
    answers, _, _ = disjoint()
    for one, other in zip(clusters(answers, 3).vectors, clusters(answers, 3).vectors, strict=True):
        np.testing.assert_array_equal(one, other)
