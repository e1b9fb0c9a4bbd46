"""Which parent knows which class, found without labels from how the parents answer the same samples.

The parents are taken for annotators of unknown quality: parent m gives a class that is right in the share r_mk of the
samples of class k, and any other class otherwise. With p_m(x) its probabilities of K classes, the chances of the right
class are

    q_k(x) ~ prod_m r_mk^p_mk(x) ((1 - r_mk) / (K - 1))^(1 - p_mk(x)),

and r_mk the share of q_k that p_m gives to k, which is expectation and maximisation in turn, from q the mean of the
p_m. Samples of a class are few, so r_mk is pulled to the parent's share over all classes, as if it had been seen on
PRIOR samples more. A parent's own surety is part of this (p is not cut to the class it names), which tells even two
parents apart where one is sure of what it knows; all parents are asked at the mildest temperature at which they are
SURE of their answers on average, for what logits are measured in means nothing.

These chances are nobody's opinion: they do not depend on how much a parent counts in a merge, so merges of other
weights can be judged by them. The parents' ensemble depends on that, and would find the weights best that it was
formed with.

Source: A. P. Dawid, A. M. Skene, Maximum likelihood estimation of observer error-rates using the EM algorithm, Applied
Statistics 28, 1979; one share for each class in place of a table of confusions, and probabilities in place of votes,
are our own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.merging.answer.ensemble import Reading, Scores, expected
from onnxmerge.types import Rows

PRIOR = 10.0
"""Samples that a parent's share over all classes counts for, where its share of one class is measured."""

SURE = 0.9
"""The probability of the class that a parent names, on average over samples and parents, at least."""

TEMPERATURES = tuple(2.0**power for power in range(20, -21, -1))
"""Those to choose from, the mildest first."""

LEARNT = 8192
"""Answers that are learned from, at most, from all over the data."""

ROUNDS = 50
"""Of expectation and maximisation, at most."""

SETTLED = 1e-3
"""They end when no chance changes by more."""


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """What each parent knows: ``recalls`` [models, classes] are the r_mk, for probabilities at a ``temperature``.

    ``reading`` is by what embeddings are read (None: answers are logits). A score of answers, as `Agreement` is: the
    chance that the class that is answered is right.
    """

    temperature: float
    recalls: Scores
    reading: Reading | None = None

    def __call__(self, merged: Rows, answers: Sequence[Rows]) -> Scores:
        return expected(self.chances(answers), self._scores(merged))

    def chances(self, answers: Sequence[Rows]) -> Scores:
        """The chances q [n, classes] of each class to be right, by the parents' answers [n, u]."""
        return _chances(_probabilities(_logs(answers, self.reading), self.temperature), self.recalls)

    def accuracies(self, answers: Sequence[Rows]) -> tuple[float, ...]:
        """How often each parent is right, by these chances."""
        chances = self.chances(answers)
        return tuple(float(expected(chances, self._scores(own)).mean()) for own in answers)

    def _scores(self, answers: Rows) -> NDArray[np.float32]:
        return answers if self.reading is None else self.reading.cosines(answers)[0]


def votes_of(answers: Sequence[Rows], reading: Reading | None = None) -> Votes:
    """Learn from the parents' answers [n, u] to the same samples, which are logits unless there is a ``reading``.

    The vectors of a ``reading`` must be those of all parents (``Reading.shared``).
    """
    step = -(-len(answers[0]) // LEARNT)
    logs = _logs([own[::step] for own in answers], reading)
    place = bisect_left(TEMPERATURES, SURE, key=lambda each: _surety(logs, each))
    temperature = TEMPERATURES[min(place, len(TEMPERATURES) - 1)]
    p = _probabilities(logs, temperature)
    models, samples, classes = p.shape
    q = p.mean(axis=0)
    recalls = np.empty((models, classes))
    for _ in range(ROUNDS):
        known = np.einsum("nk,mnk->mk", q, p)
        overall = np.clip(known.sum(axis=1) / samples, 1 / classes, 1 - 1 / (samples + 1))
        recalls = (PRIOR * overall[:, None] + known) / (PRIOR + q.sum(axis=0))
        before, q = q, _chances(p, recalls)
        if not np.abs(q - before).max() > SETTLED:
            break
    return Votes(temperature, recalls, reading)


def _logs(answers: Sequence[Rows], reading: Reading | None) -> Scores:
    """The logarithms of the parents' probabilities, [models, n, classes]."""
    if reading is not None:
        return np.log(np.stack(reading.probabilities(answers)))
    return np.stack([scipy.special.log_softmax(own.astype(np.float64), axis=1) for own in answers])


def _probabilities(logs: Scores, temperature: float) -> Scores:
    found: Scores = scipy.special.softmax(logs / temperature, axis=2)
    return found


def _surety(logs: Scores, temperature: float) -> float:
    return float(_probabilities(logs, temperature).max(axis=2).mean())


def _chances(p: Scores, recalls: Scores) -> Scores:
    """Q [n, classes] of probabilities p [models, n, classes]."""
    right, wrong = np.log(recalls), np.log((1 - recalls) / max(p.shape[2] - 1, 1))
    found: Scores = scipy.special.softmax(np.einsum("mnk,mk->nk", p, right - wrong) + wrong.sum(axis=0), axis=1)
    return found
