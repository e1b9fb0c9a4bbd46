"""What a model does on data: finite answers, the same twice, and the same for a sample whatever its batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.calibration.chunks import rows as rows_of
from onnxmerge.calibration.specs import fixed_batch
from onnxmerge.checking.finding import Finding
from onnxmerge.checking.gate import RUNS, Gate
from onnxmerge.checking.runs import floats, same
from onnxmerge.checking.subject import Subject
from onnxmerge.model.interface import CLOSE
from onnxmerge.types import Array

NEEDS = (*RUNS, "interface.free-sizes")


def _finite(subject: Subject) -> Iterator[Finding]:
    seen = subject.observed
    for name, count in seen.not_finite.items():
        told = "look for divisions and logarithms of zero, or sums beyond float16"
        yield Finding(FINITE.id, "error", name, f"{count} values are not finite", "finite", "fail", told)
    if not seen.not_finite:
        on = "a synthetic sample" if subject.data is None else f"{seen.samples} samples"
        yield Finding(FINITE.id, "error", "", f"all values on {on}", "finite", "pass", "")


def _deterministic(subject: Subject) -> Iterator[Finding]:
    runner, sample = subject.runner, subject.sample
    first, again = subject.answers, runner.once(sample)
    for name in first:
        if not same([first[name]], [again[name]]):
            told = "export it for inference: dropout in training mode or a random operator is left in it"
            yield Finding(DETERMINISTIC.id, "error", name, "differs from run to run", "the same bits", "fail", told)
            return
    yield Finding(DETERMINISTIC.id, "error", "", "two runs agree", "the same bits", "pass", "")


def _batch_independent(subject: Subject) -> Iterator[Finding]:
    runner, sample = subject.runner, subject.sample
    rows = rows_of(sample)
    fixed = fixed_batch(runner.specs)
    if not runner.batched or rows < 2:
        why = "axis 0 is not the batch of every input" if not runner.batched else "one sample runs at a time"
        yield subject.skip(BATCH.id, why)
        return
    together = dict(floats(subject.answers))
    if fixed is None:
        other, count = dict(floats(subject.answers_of(1))), 1
    else:  # the others in another order are no batch of another size, but no less foreign
        turned = {name: np.concatenate([array[:1], array[:0:-1]]) for name, array in sample.items()}
        other, count = dict(floats(runner.once(turned))), rows
    by_row = [name for name, array in together.items() if _has_rows(array, rows) and _has_rows(other[name], count)]
    for name in by_row:
        error = _relative(together[name][:1], other[name][:1])
        if not error <= CLOSE:
            told = "samples change one another: a normalisation in training mode, or a reduction over axis 0"
            yield Finding(BATCH.id, "error", name, error, CLOSE, "fail", told, higher_is_better=False)
            return
    if by_row:
        yield Finding(BATCH.id, "error", "", f"{len(by_row)} outputs", None, "pass", "")
    else:
        yield subject.skip(BATCH.id, "no output has a row for each sample")


def _has_rows(array: Array, rows: int) -> bool:
    return array.ndim > 0 and len(array) == rows


def _relative(one: Array, other: Array) -> float:
    old, new = one.astype(np.float64), other.astype(np.float64)
    if old.shape != new.shape:
        return float("inf")
    finite = np.isfinite(old)
    if not np.array_equal(finite, np.isfinite(new)):
        return float("inf")
    scale = float(np.max(np.abs(old[finite]), initial=0.0))
    wrong = float(np.max(np.abs(old[finite] - new[finite]), initial=0.0))
    return wrong / max(scale, CLOSE)


FINITE = Gate("behaviour.finite", "outputs are finite", _finite, NEEDS)
DETERMINISTIC = Gate("behaviour.deterministic", "two runs give the same", _deterministic, RUNS)
BATCH = Gate(
    "behaviour.batch-independent",
    "a sample gets the same answer in any batch",
    _batch_independent,
    (*NEEDS, "behaviour.deterministic"),
)
