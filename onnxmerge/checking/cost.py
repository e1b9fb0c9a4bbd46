"""What a model costs beside its first parent: bytes, parameters, and time for a sample.

Time is measured in runs that alternate, so that whatever else the machine does slows both down. The median of the
ratios is held to the bound; half of the ratios lie in the interval that is told with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median, quantiles

from onnxmerge.calibration.chunks import Feed
from onnxmerge.checking.finding import Finding, Verdict, compared
from onnxmerge.checking.gate import READ, RUNS, Gate
from onnxmerge.checking.runs import Runner
from onnxmerge.checking.subject import Subject
from onnxmerge.model.footprint import parameters

WARM, LEAST, MOST, SECONDS = 3, 11, 200, 2.0
"""Runs of each that do not count, pairs of runs at the least and the most, and how long more are made."""


def _size(subject: Subject) -> Iterator[Finding]:
    if not subject.parents or not (theirs := subject.parent_bytes):
        yield subject.skip(SIZE.id, "no --against" if not subject.parents else "the parent is no file")
        return
    size = subject.bytes
    told = f"{size:,} bytes against {theirs:,}: merge without --share and --width above 1, or prune it"
    bound = subject.settings.max_size_ratio
    yield compared(SIZE.id, size / theirs, bound, higher_is_better=False, remedy=told, option="--max-size-ratio")


def _parameters(subject: Subject) -> Iterator[Finding]:
    own = parameters(subject.network)
    theirs = parameters(subject.parents[0]) if subject.parents else 0
    if not theirs:
        yield subject.skip(PARAMETERS.id, f"{own:,} parameters; no --against" if not subject.parents else "none there")
        return
    told = f"{own:,} parameters against {theirs:,}: merge without --share and --width above 1, or prune it"
    bound = subject.settings.max_parameters_ratio
    yield compared(
        PARAMETERS.id, own / theirs, bound, higher_is_better=False, remedy=told, option="--max-parameters-ratio"
    )


def _latency(subject: Subject) -> Iterator[Finding]:
    bound = subject.settings.max_latency_ratio
    if bound is None or not subject.parents:
        yield subject.skip(LATENCY.id, "no --max-latency-ratio")
        return
    parent = subject.parent_runners[0]
    found = ratios(subject.runner, parent, subject.sample, parent.fitting(subject.sample))
    low, _, high = quantiles(found, n=4)
    middle = median(found)
    told = f"half of {len(found)} ratios lie between {low:.3g} and {high:.3g}, in runs that alternate"
    verdict: Verdict = "pass" if middle <= bound else "fail"
    yield Finding(LATENCY.id, "error", "", middle, bound, verdict, told, higher_is_better=False)


def ratios(model: Runner, parent: Runner, feed: Feed, theirs: Feed) -> list[float]:
    """How many times as long one run takes as one of the other, from runs that alternate."""
    found: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(found) < WARM + LEAST or (time.perf_counter() < until and len(found) < MOST):
        started = time.perf_counter()
        model.once(feed)
        between = time.perf_counter()
        parent.once(theirs)
        found.append((between - started) / max(time.perf_counter() - between, 1e-9))
    return found[WARM:]


SIZE = Gate("cost.size", "bytes against those of the first parent", _size, READ, "max_size_ratio")
PARAMETERS = Gate(
    "cost.parameters", "parameters against those of the first parent", _parameters, READ, "max_parameters_ratio"
)
LATENCY = Gate("cost.latency", "time for a run against that of the first parent", _latency, RUNS, "max_latency_ratio")
