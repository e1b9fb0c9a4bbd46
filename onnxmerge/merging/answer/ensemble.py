"""What parents say together, in the meaning of their output, and how well a merged network says the same.

Probabilities of one label set are averaged, logits by the probabilities that they stand for,

    t = log(sum_m w_m softmax(z_m / tau) + floor) tau.

Embeddings are agreed on by the directions in which each parent's answers vary (``closed_form.consensus``), and by what
somebody reads who compares them with vectors: with V the vectors of all parents stacked [classes, u], p_m(x) the
softmax of the cosines of parent m's answer with its own vectors, and q the square roots of all of them,

    t = mu + v (c + b V^+ (q - mean q)),

mu being the mean of the parents' means, c their consensus about it, V^+ the pseudo-inverse, b such that both terms have
one deviation, and v such that t is no shorter than the parents' answers. Where no class vectors are known, t is the
consensus, and the centres of clusters of each parent's own answers stand in where agreement is to be judged: about its
mean, an embedding that was trained for classes varies towards one of them at a time. They are no target, for where a
parent knows only a part of the data, most of its clusters are of what it does not know.

The mean of an embedding is a constant opinion on classes, and the mean of two parents' means favours some classes of
both. It is added to t unless it is to be dropped, which changes what the output says to whoever reads more than
directions about the mean.

Agreement is the probability, by the parents' ensemble, of what the merged network answers. Parents are surer of
themselves than they are right, most of all on their own training data, so the ensemble is asked at a temperature at
which it is not too sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.merging.closed_form.consensus import Consensus, consensus, unit
from onnxmerge.types import Rows

Scores: TypeAlias = NDArray[np.float64]
Vectors: TypeAlias = Sequence[Rows]
"""For each parent the vectors that its answers are compared with, [classes, u]."""

COSINE_TEMPERATURE = 0.05
"""Of the softmax over cosines: milder than the 0.01 that networks of this kind are trained with."""

LOGIT_TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Of the softmax over logits, to choose from; agreement is measured at the second.

The logarithm of a mean of probabilities that are nearly 0 or 1 is no linear function of what a last layer reads. At a
temperature near the deviation of the logits (6 to 10 in a classifier of MNIST) it nearly is one, and says the same.
"""

FLOOR = 1e-4
"""Added to probabilities before their logarithm is taken."""

CLUSTER_TEMPERATURE = 0.2
"""Of the softmax over cosines with clusters, about the mean: these reach from -1 to 1, cosines about 0 do not."""

CLUSTERED = 4096
"""Answers of which clusters are formed, at most."""


class Form(Protocol):
    """One way to form the parents' common answer. ``label`` says it to people.

    ``keeps_mean`` is whether the mean of an embedding is added to it; None for what is no embedding.
    """

    @property
    def label(self) -> str: ...

    @property
    def keeps_mean(self) -> bool | None: ...

    def __call__(self, answers: Sequence[Rows]) -> Rows:
        """The common answer [n, u] to each of n samples, of the parents' answers [n, u] to it."""
        ...


@dataclass(frozen=True, slots=True)
class AveragedProbabilities:
    """Logits whose softmax is the mean of the parents' probabilities, each taken at a temperature."""

    shares: tuple[float, ...]
    temperature: float
    keeps_mean: None = None

    @property
    def label(self) -> str:
        return f"probabilities averaged at temperature {self.temperature:g}"

    def __call__(self, answers: Sequence[Rows]) -> Rows:
        mean = _mean_probabilities(answers, self.shares, self.temperature)
        return np.asarray(np.log(mean + FLOOR) * self.temperature, np.float32)


@dataclass(frozen=True, slots=True)
class AveragedOdds:
    """What goes into a Sigmoid whose result is the mean of the parents' probabilities, each unit by itself."""

    shares: tuple[float, ...]
    label: str = "probabilities averaged"
    keeps_mean: None = None

    def __call__(self, answers: Sequence[Rows]) -> Rows:
        mean = np.average([scipy.special.expit(own.astype(np.float64)) for own in answers], axis=0, weights=self.shares)
        return np.asarray(scipy.special.logit(np.clip(mean, FLOOR, 1 - FLOOR)), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """By what somebody reads embeddings: for each parent, ``vectors`` that its answers are compared with.

    Clusters of answers are read about the mean: ``centres`` are the mean directions of the parents (empty: as it is).
    """

    vectors: Vectors
    centres: Sequence[Rows] = ()

    @property
    def joint(self) -> Rows:
        """The vectors of all parents, of length one [classes, u]."""
        return np.concatenate([unit(own) for own in self.vectors])

    @property
    def shared(self) -> bool:
        """Whether all parents answer for the same vectors, so that each could say what the others say."""
        return all(own is self.vectors[0] for own in self.vectors)

    def probabilities(self, answers: Sequence[Rows]) -> list[Scores]:
        """For each parent the probabilities of its own vectors [n, classes], by its answers [n, u]."""
        centres = self.centres or [np.zeros(own.shape[1], np.float32) for own in answers]
        temperature = CLUSTER_TEMPERATURE if self.centres else COSINE_TEMPERATURE
        found: list[Scores] = []
        for own, centre, vectors in zip(answers, centres, self.vectors, strict=True):
            cosines = unit(unit(own) - centre).astype(np.float64) @ unit(vectors).astype(np.float64).T
            found.append(scipy.special.softmax(cosines / temperature, axis=1))
        return found

    def cosines(self, merged: Rows) -> list[Rows]:
        """The cosines of merged answers [n, u] with each parent's vectors; about their own mean, for clusters."""
        found = unit(merged)
        if self.centres:
            found = unit(found - found.mean(axis=0))
        return [found @ unit(vectors).T for vectors in self.vectors]

    def read(self, answers: Sequence[Rows]) -> Rows:
        """q: the square roots of all parents' probabilities of their own vectors, [n, classes]."""
        return np.sqrt(np.concatenate(self.probabilities(answers), axis=1)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class CommonEmbedding:
    """The consensus of embeddings, with what is read of each parent by a ``reading`` where there is one.

    ``back`` [classes, u] is V^+ times b, ``typical`` [classes] the mean of q; ``volume`` is what all that varies is
    multiplied by, so that answers are as long as the parents'.
    """

    label: str
    agreed: Consensus
    keeps_mean: bool
    reading: Reading | None = None
    back: Rows | None = None
    typical: Rows | None = None
    volume: float = 1.0

    def __call__(self, answers: Sequence[Rows]) -> Rows:
        found = self.varying(answers) * np.float32(self.volume)
        return np.asarray(found + self.agreed.centre if self.keeps_mean else found, np.float32)

    def varying(self, answers: Sequence[Rows]) -> Rows:
        """The common answer [n, u] without its mean, before it is brought to its length."""
        found = self.agreed.varying(answers)
        if self.reading is None or self.back is None or self.typical is None:
            return found
        return np.asarray(found + (self.reading.read(answers) - self.typical) @ self.back, np.float32)


def common_embedding(
    answers: Sequence[Rows], shares: Sequence[float], reading: Reading | None, *, keeps_mean: bool
) -> CommonEmbedding:
    """Learn the form from some of the parents' answers [n, u]; without a ``reading`` it is their consensus alone."""
    agreed = consensus(answers, shares)
    form = CommonEmbedding("consensus of directions", agreed, keeps_mean)
    if reading is not None:
        read = reading.read(answers)
        typical = read.mean(axis=0)
        back = np.linalg.pinv(reading.joint.astype(np.float64)).T
        deviation = float(agreed.varying(answers).std())
        own = float(((read - typical) @ back).std())
        scaled = np.asarray(back * (deviation / own if own > 0 else 0.0), np.float32)
        form = CommonEmbedding("class vectors", agreed, keeps_mean, reading, scaled, typical)
    return replace(form, volume=agreed.volume_of(form.varying(answers), keeps_mean=keeps_mean))


def clusters(answers: Sequence[Rows], seed: int) -> Reading:
    """Read each parent by the centres of clusters of its own answers, as directions about their mean.

    There is one cluster more than the directions in which its answers vary: classes that lie apart from each other
    span one direction less than there are. Directions are counted by the participation ratio of their variances.
    """
    found, centres = [], []
    for own in answers:
        some = unit(own[:: -(-len(own) // CLUSTERED)]).astype(np.float64)
        centre = some.mean(axis=0)
        about = some - centre
        variances = np.square(np.linalg.svd(about, compute_uv=False))
        total = float(np.square(variances).sum())
        directions = float(variances.sum()) ** 2 / total if total > 0 else 0.0
        wanted = min(int(np.ceil(directions)) + 1, len(some))
        middles, _ = scipy.cluster.vq.kmeans2(unit(about), wanted, seed=seed, minit="++", missing="warn")
        found.append(unit(middles.astype(np.float32)))
        centres.append(centre.astype(np.float32))
    return Reading(found, centres)


class Agreement(Protocol):
    """How well each of n answers [n, u] agrees with the parents' together, float64 [n]; larger is better."""

    def __call__(self, merged: Rows, answers: Sequence[Rows]) -> Scores: ...


@dataclass(frozen=True, slots=True)
class ByLogits:
    """The mean probability, by the parents' ensemble at a mild temperature, of the class that is answered."""

    shares: tuple[float, ...]

    def __call__(self, merged: Rows, answers: Sequence[Rows]) -> Scores:
        return expected(_mean_probabilities(answers, self.shares, LOGIT_TEMPERATURES[1]), merged)


@dataclass(frozen=True, slots=True)
class ByOdds:
    """1 less the mean distance of each probability to the mean of the parents'."""

    shares: tuple[float, ...]

    def __call__(self, merged: Rows, answers: Sequence[Rows]) -> Scores:
        mean = np.average([scipy.special.expit(own.astype(np.float64)) for own in answers], axis=0, weights=self.shares)
        far: Scores = np.abs(scipy.special.expit(merged.astype(np.float64)) - mean).mean(axis=1)
        return 1.0 - far


@dataclass(frozen=True, slots=True, eq=False)
class ByReading:
    """The mean probability, by the parent that knows it, of the vector that is nearest to the answer.

    Nearest among each parent's own vectors, and among those of all, in equal parts: the parents' tasks may share their
    samples, or not. Vectors that all parents share are one set, of which their probabilities are averaged.
    """

    reading: Reading
    shares: tuple[float, ...]

    def __call__(self, merged: Rows, answers: Sequence[Rows]) -> Scores:
        own, cosines = self.reading.probabilities(answers), self.reading.cosines(merged)
        if self.reading.shared:
            return expected(np.average(own, axis=0, weights=self.shares), cosines[0])
        each = [expected(chances, near) for chances, near in zip(own, cosines, strict=True)]
        joint = expected(np.concatenate(own, axis=1), np.concatenate(cosines, axis=1))
        apart: Scores = np.average(each, axis=0, weights=self.shares)
        return (apart + joint) / 2


def expected(probabilities: NDArray[np.float64], scores: NDArray[Any]) -> Scores:
    """The probability [n] of the class with the highest score; both [n, classes]."""
    found: Scores = probabilities[np.arange(len(probabilities)), scores.argmax(axis=1)]
    return found


def _mean_probabilities(answers: Sequence[Rows], shares: Sequence[float], temperature: float) -> NDArray[np.float64]:
    """The mean of the parents' softmax probabilities [n, u]; in the logarithm, for what is far below 1."""
    logs = [scipy.special.log_softmax(own.astype(np.float64) / temperature, axis=1) for own in answers]
    weights = np.asarray(shares).reshape(-1, 1, 1)
    found: NDArray[np.float64] = np.exp(scipy.special.logsumexp(np.stack(logs), axis=0, b=weights / weights.sum()))
    return found
