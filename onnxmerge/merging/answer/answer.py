"""Solve the last linear layer of a merged network for its parents' common answer, in closed form and without labels.

X are the rows that the layer reads in the merged network, T the parents' common answer to the same samples in one of
several forms (``ensemble``). Each form is solved by ridge regression on most of the samples, pulled to the layer as it
is, and judged by its agreement with the ensemble on the rest. The best is solved again on all of them, unless the layer
as it is agrees better by more than one standard error of the difference. Where it is a guess by what the parents'
answers are read (an embedding, by clusters), the form must be the better one by as much.

Source: the closed form is that of RegMean (Jin et al., ICLR 2023, arXiv 2212.09849) and PLeaS (Nasery et al., CVPR
2025, arXiv 2407.02447); what it aims at is our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.merging.answer.ensemble import (
    LOGIT_TEMPERATURES,
    Agreement,
    AveragedOdds,
    AveragedProbabilities,
    ByLogits,
    ByOdds,
    ByReading,
    Form,
    Reading,
    Vectors,
    clusters,
    common_embedding,
)
from onnxmerge.merging.answer.last_layer import Answers, LastLayer
from onnxmerge.merging.answer.meaning import OutputMeaning, each_by_itself
from onnxmerge.merging.closed_form.encode import encoded_plainly
from onnxmerge.merging.closed_form.ridge import Sums, choose, problem, ridge
from onnxmerge.merging.closed_form.solution import Solution
from onnxmerge.types import Floats, Rows

MeanChoice: TypeAlias = Literal["auto", "keep", "drop"]

HELD_OUT = 5
"""One sample in so many judges the forms."""

JUDGES = 20
"""With fewer samples to judge by, the layer stays as it is."""

EQUAL = 1e-3
"""Parents whose answers differ by less than this share of their size give one answer, which is not touched."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one output.

    ``form`` says what its layer was solved for ("as it was": it was left alone). ``before`` and ``after`` are its
    agreement with the parents' ensemble on ``samples`` held-out samples; None where there was nothing to judge.
    ``mean`` says what became of an embedding's mean. ``parents`` are the agreements of each parent's own answers with
    the ensemble, on the same samples; empty where parents answer for classes of their own, so that none could.
    """

    meaning: OutputMeaning
    form: str
    before: float | None = None
    after: float | None = None
    samples: int = 0
    mean: Literal["kept", "dropped"] | None = None
    parents: tuple[float, ...] = ()


AS_IT_WAS = "as it was"


def answer(
    layer: LastLayer,
    meaning: OutputMeaning,
    found: Answers,
    current: Mapping[str, NDArray[Any]],
    *,
    shares: Sequence[float],
    vectors: Vectors | None = None,
    mean: MeanChoice = "auto",
    seed: int = 0,
) -> tuple[dict[str, NDArray[Any]], Answered]:
    """The initializers of a layer that changed, and what became of its output.

    Args:
        layer: The last linear layer.
        meaning: What its output is.
        found: What the layer reads in the merged network and what it and the parents' layers answer.
        current: The merged weights.
        shares: Of the parents in the merge.
        vectors: For each parent the class vectors that its answers are compared with; None where none are known.
        mean: Whether the mean of an embedding is kept; ``auto`` drops it where class vectors show that this helps.
        seed: Of the clusters.

    """
    kept: Literal["kept"] | None = "kept" if meaning.meaning == "embedding" else None
    held = found.samples % HELD_OUT == HELD_OUT - 1
    judged = len(np.unique(found.samples[held]))
    if judged < JUDGES or held.all() or meaning.meaning in ("features", "regression") or _one_answer(found.parents):
        return {}, Answered(meaning, AS_IT_WAS, mean=kept)
    fit, rest = found.of(~held), found.of(held)
    reading = reading_of(meaning, fit.parents, vectors, seed)
    agrees = agreement(layer, reading, shares)
    forms = forms_of(layer, fit.parents, tuple(shares), reading, mean)
    prior = layer.target.form.matrix(current[layer.target.layer.weight])
    before = agrees(rest.merged, rest.parents)
    every = [agrees(_given(_solved(layer, fit, form(fit.parents), prior), rest.x), rest.parents) for form in forms]
    best = int(np.argmax([each.mean() for each in every]))
    better = every[best] - before
    asked = meaning.meaning == "embedding" and mean == "drop"
    agreed = float(before.mean())
    comparable = rest.parents if reading is None or reading.shared else ()
    parents = tuple(float(agrees(own, rest.parents).mean()) for own in comparable)
    doubt = float(better.std() / np.sqrt(judged))
    least = doubt if reading is not None and reading.centres else -doubt
    if better.mean() <= least and not asked:
        return {}, Answered(meaning, AS_IT_WAS, agreed, agreed, judged, kept, parents)
    solution = _solved(layer, found, forms[best](found.parents), prior)
    became = "dropped" if forms[best].keeps_mean is False else kept
    told = Answered(meaning, forms[best].label, agreed, float(every[best].mean()), judged, became, parents)
    return encoded_plainly(layer.target, current, solution), told


def reading_of(meaning: OutputMeaning, answers: Sequence[Rows], vectors: Vectors | None, seed: int) -> Reading | None:
    """By what an embedding is read: class vectors that are known, or clusters of the parents' own answers [n, u]."""
    if meaning.meaning != "embedding":
        return None
    return clusters(answers, seed) if vectors is None else Reading(vectors)


def agreement(layer: LastLayer, reading: Reading | None, shares: Sequence[float]) -> Agreement:
    """What says how well answers of a layer agree with the parents' ensemble, by what its output means."""
    if reading is not None:
        return ByReading(reading, tuple(shares))
    return ByOdds(tuple(shares)) if each_by_itself(layer.output) else ByLogits(tuple(shares))


def forms_of(
    layer: LastLayer,
    answers: Sequence[Rows],
    shares: tuple[float, ...],
    reading: Reading | None,
    mean: MeanChoice,
) -> list[Form]:
    """What the layer may be solved for, in order of preference, by the parents' ``answers`` [n, u]."""
    if reading is not None:
        if reading.centres:  # a guess: it may judge, but is no target, and read about the mean it cannot tell its worth
            return [common_embedding(answers, shares, None, keeps_mean=mean != "drop")]
        keeping = [True, False] if mean == "auto" else [mean == "keep"]
        return [
            common_embedding(answers, shares, own, keeps_mean=keeps) for keeps in keeping for own in (None, reading)
        ]
    if each_by_itself(layer.output):
        return [AveragedOdds(shares)]
    return [AveragedProbabilities(shares, temperature) for temperature in LOGIT_TEMPERATURES]


def _one_answer(parents: Sequence[Rows]) -> bool:
    """Whether all parents give the same answers: then these are the ensemble's, mean and length included."""
    first = parents[0].astype(np.float64)
    size = float(np.linalg.norm(first))
    return all(float(np.linalg.norm(own - first)) <= EQUAL * size for own in parents[1:])


def _solved(layer: LastLayer, found: Answers, target: Rows, prior: Floats) -> Solution:
    """The layer [groups, u, d] that meets ``target`` [n, units] best, its ridge chosen on every fifth sample."""
    groups, biased = layer.target.form.groups, layer.target.biased
    y = np.ascontiguousarray(target.reshape(len(target), groups, -1).transpose(1, 0, 2))[None]
    held = found.samples % HELD_OUT == (HELD_OUT - 2)  # other samples than those that judge the forms
    shifts = found.x.mean(axis=1, dtype=np.float64), y.mean(axis=2, dtype=np.float64)
    fit, rest = Sums(*shifts), Sums(*shifts)
    for sums, part in ((fit, ~held), (rest, held)):
        sums.add(found.x[:, part], y[:, :, part])
    one = np.ones(y.shape[0:1] + shifts[1].shape[1:])
    zero = None if biased else (np.zeros_like(shifts[0]), np.zeros_like(shifts[1][0]))
    small = problem(fit, one, zero)
    about = (small.x, small.y) if biased else zero
    best, error = choose(small, problem(rest, one, about), prior)
    whole = problem(fit.joined(rest), one, zero)
    weight = ridge(whole, prior, best)
    mean = np.einsum("gud,gd->gu", weight, whole.x)
    return Solution(weight, whole.y - mean, best, error, mean, whole.spread(weight))


def _given(solution: Solution, x: Rows) -> Rows:
    """What a solution answers to rows x [groups, n, d]: [n, units]."""
    y = np.einsum("gud,gnd->ngu", solution.weight, x, optimize=True) + solution.bias
    return np.asarray(y.reshape(len(y), -1), np.float32)
