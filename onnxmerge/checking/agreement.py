"""How a model's answers agree with those of each parent, and the first layer where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnxmerge.checking.drift import drifts
from onnxmerge.checking.finding import Finding, compared
from onnxmerge.checking.gate import Gate
from onnxmerge.checking.observed import Agreement
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError, StructureError
from onnxmerge.model.pair import pair

NEEDS = ("behaviour.finite", "behaviour.deterministic", "interface.parents")


def _measured(
    gate: str,
    value: Callable[[Agreement], float],
    bound: Callable[[Subject], float | None],
    option: str,
    *,
    higher_is_better: bool,
) -> Callable[[Subject], Iterator[Finding]]:
    """A gate that holds one number of each output against each parent to a bound."""

    def check(subject: Subject) -> Iterator[Finding]:
        threshold = bound(subject)
        if not subject.parents:
            yield subject.skip(gate, "no --against")
            return
        for place, why in subject.observed.errors.items():
            if threshold is not None:
                raise InputError(f"{subject.parents[place].label}: {why}")
            yield subject.skip(gate, why, where=f"against {subject.parent_names[place]}")
        for (place, name), agreement in subject.observed.agreements.items():
            where = f"{name} against {subject.parent_names[place]}"
            if gate == TOP1_ID and not agreement.rows:
                yield subject.skip(gate, "the output has no scores of classes [samples, classes]", where=where)
                continue
            told = "merge with more calibration data or another --effort, or keep the model that it replaces"
            measured = value(agreement)
            yield compared(
                gate,
                measured,
                threshold,
                higher_is_better=higher_is_better,
                where=where,
                remedy=told,
                option=option,
            )

    return check


def _first_difference(subject: Subject) -> Iterator[Finding]:
    if not subject.parents:
        yield subject.skip(FIRST_ID, "no --against")
    for parent, name in zip(subject.parents, subject.parent_names, strict=True):
        where = f"against {name}"
        try:
            models = pair([subject.network, parent])
        except StructureError as error:
            yield subject.skip(FIRST_ID, str(error), where=where)
            continue
        parted = next((each for each in drifts(models, subject.sample) if each.differs), None)
        told = "measured only: layers of a merge part from the first one on that was merged"
        measured = "nowhere" if parted is None else f"{parted.tensor} ({parted.operator}), error {parted.relative:.1e}"
        yield Finding(FIRST_ID, "error", where, measured, None, "skipped", told)


TOP1_ID = "agreement.top1"
FIRST_ID = "agreement.first-difference"

TOP1 = Gate(
    TOP1_ID,
    "the class of most samples is the parent's",
    _measured(
        TOP1_ID,
        lambda found: found.top1 / max(found.rows, 1),
        lambda subject: subject.settings.min_agreement,
        "--min-agreement",
        higher_is_better=True,
    ),
    NEEDS,
    "min_agreement",
)
ERROR = Gate(
    "agreement.largest-error",
    "no value is farther from the parent's, relative to its largest",
    _measured(
        "agreement.largest-error",
        lambda found: found.relative,
        lambda subject: subject.settings.max_error,
        "--max-error",
        higher_is_better=False,
    ),
    NEEDS,
    "max_error",
)
MEAN = Gate(
    "agreement.mean-error",
    "the mean absolute error",
    _measured("agreement.mean-error", lambda found: found.mean, lambda _: None, "", higher_is_better=False),
    NEEDS,
)
COSINE = Gate(
    "agreement.cosine",
    "the cosine of all answers",
    _measured("agreement.cosine", lambda found: found.cosine, lambda _: None, "", higher_is_better=True),
    NEEDS,
)
NOISE = Gate(
    "agreement.signal-to-noise",
    "the ratio of the parent's answers to what differs, in decibels",
    _measured(
        "agreement.signal-to-noise", lambda found: found.signal_to_noise, lambda _: None, "", higher_is_better=True
    ),
    NEEDS,
)
FIRST = Gate(FIRST_ID, "the first layer where they part", _first_difference, NEEDS)
