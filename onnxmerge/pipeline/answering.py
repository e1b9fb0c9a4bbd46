"""The stage after repair: the last linear layers are solved for the ensemble's answer (see ``merging.answer``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.sample_size import LEAST
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.answer.answer import Answered, answer
from onnxmerge.merging.answer.last_layer import LastLayer, ParentAnswers, answers_of, parent_answers
from onnxmerge.merging.answer.meaning import OutputMeaning, each_by_itself
from onnxmerge.merging.closed_form.sample_size import samples
from onnxmerge.model.owned import laid_over
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.restoring import Merged

LEAST_ANSWERED, MOST_ANSWERED = 4 * LEAST, 10 * LEAST
"""Samples that the last layers are solved on, at least where there are as many, and at most."""


def asked_parents(job: Job, layers: Sequence[LastLayer], source: CalibrationSource) -> list[ParentAnswers]:
    """What the parents answer on some data, at each of the ``layers``: the same for all that is made of them."""
    options = job.options
    return parent_answers(layers, job.prepared.models, source, provider=options.provider, seed=options.seed)


def solved_layers(job: Job) -> list[LastLayer]:
    """The layers that are solved for the ensemble's answer: those of outputs whose meaning is known."""
    return [layer for layer in job.outputs.layers if str(layer.output.name) in job.outputs.meanings]


def solved_on(job: Job, layers: Sequence[LastLayer], source: CalibrationSource) -> CalibrationSource:
    """As much of the data, from all over it, as solving these ``layers`` takes, up to MOST_ANSWERED samples.

    Where the user said how much of it is to be taken (``--samples``), it is all of that.
    """
    traced, typing = rows(job.prepared.trace.sample), job.prepared.typing
    most = max([LEAST_ANSWERED, *(samples(layer.target, typing, traced) for layer in layers)])
    return Spread(source, MOST_ANSWERED if job.options.samples is not None else min(most, MOST_ANSWERED))


def answered_together(job: Job) -> list[tuple[LastLayer, OutputMeaning]]:
    """The layers of the outputs that the parents answer together, and what these mean."""
    outputs = job.outputs
    found = [(layer, outputs.meanings.get(str(layer.output.name))) for layer in outputs.layers]
    return [(layer, own) for layer, own in found if own is not None and own.meaning not in ("features", "regression")]


def answered(
    job: Job, before: Merged, *, apart: bool, theirs: Callable[[], Sequence[ParentAnswers]] | None = None
) -> tuple[Merged, tuple[Answered, ...]]:
    """The merged network with its outputs' layers solved for the ensemble's answer, and what became of each output.

    ``theirs`` gives what the parents answer (``asked_parents``, at all ``solved_layers``, on the data of `solved_on`)
    where several merges share it. Where heads are kept ``apart`` nothing is done, and a note says so: each is its
    parent's.
    """
    options, outputs = job.options, job.outputs
    if options.answer != "ensemble" or job.source is None:
        return before, ()
    if apart:
        return replace(before, notes=(*before.notes, "heads are apart: each answers as its own parent does")), ()
    notes = [
        f"output {name!r}: no linear layer gives it, so its answer is as the layers before left it"
        for name in outputs.without
    ]
    owned = job.prepared.models.owned
    if owned is not None and owned.partly.size:
        notes.append("not all models have all tokens: what is said of tokens is averaged, not solved for the ensemble")
    layers = solved_layers(job)
    if not layers:
        return replace(before, notes=(*before.notes, *notes)), ()
    source = solved_on(job, layers, job.source)
    parents = asked_parents(job, layers, source) if theirs is None else theirs()
    given = answers_of(layers, job.network, before.weights, parents, source, provider=options.provider)
    changed: dict[str, NDArray[Any]] = {}
    told: list[Answered] = []
    for layer, found in zip(layers, given, strict=True):
        meaning = outputs.meanings[str(layer.output.name)]
        weights, became = answer(
            layer,
            meaning,
            found,
            before.weights,
            shares=job.shares,
            vectors=outputs.vectors_of(meaning),
            mean=options.output_mean,
            seed=options.seed,
        )
        changed |= weights
        told.append(became)
        weighable = options.weights is None and not each_by_itself(layer.output)
        notes += _less_than_a_parent(became, weighable=weighable)
    done = (*before.done, "ensemble's answer (output layers)") if changed else before.done
    solved = laid_over(job.prepared.models.owned, before.weights, changed)
    return Merged(solved, done, (*before.notes, *notes)), tuple(told)


def _less_than_a_parent(found: Answered, *, weighable: bool) -> list[str]:
    """A note where one parent alone says better what all of them say together than the merged network does.

    ``weighable``: the parents count alike so far, and could be weighed by what they know.
    """
    if found.after is None or not found.parents or max(found.parents) <= found.after:
        return []
    best = int(np.argmax(found.parents))
    weights = "--weights auto" if weighable else "more --weights for that model"
    told = (
        f"output {found.meaning.output!r}: the merged model agrees with the parents' ensemble less "
        f"({found.after:.4f} of 1, on {found.samples} held-out samples) than model {best + 1} does alone "
        f"({found.parents[best]:.4f}); a wider merge (--width auto), {weights}, or fewer models may help"
    )
    return [told]
