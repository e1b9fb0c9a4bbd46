"""``--effort``: try whole ways to merge, and take the one whose answers agree best with the parents' ensemble.

What a method or a refinement does for a pair of networks depends on the pair: least squares after a zip is far better
than an average for networks trained apart, and may be worse for fine-tunes of one base. So each way is tried, on some
of the calibration data, up to its last layers, and judged on samples that none of it has seen. The one that is best is
then done in full, on all of the data, exactly as if it had been asked for by its own options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.api.answering import answered
from onnxmerge.api.job import Job
from onnxmerge.api.judging import Judge
from onnxmerge.api.matching import Weights, evidence_of, match
from onnxmerge.api.methods import METHODS
from onnxmerge.api.options import DEFAULT, MergeOptions
from onnxmerge.api.restoring import merged
from onnxmerge.api.search import GRID
from onnxmerge.calibration.subset import Split, Spread
from onnxmerge.errors import InputError
from onnxmerge.matching.joint_method import JointMethod
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.answer.answer import agreement, reading_of
from onnxmerge.merging.answer.last_layer import answers_of
from onnxmerge.merging.repair.choice import repair_step

TRIED_ON = 2048
"""Samples that a way to merge is tried on, at most."""

WITHOUT_DATA = (
    "there is no calibration data, so units were matched by weights alone and nothing was measured; with --calib DATA "
    "statistics are repaired, layers are solved for what the parents compute, and the best way is found"
)

JUDGED_BY = 1024
"""Held-out samples that judge it, at most."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to merge, in words of the command line, and how it did on held-out samples.

    ``agreement`` is with the parents' ensemble (``merging.answer``), or with each parent (``merging.reconstruction``)
    where their outputs have no common answer; ``accuracy`` is None without labels.
    """

    flags: tuple[str, ...]
    agreement: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class EffortReport:
    """What an ``effort`` tried, in order, and which of it was ``chosen`` by ``criterion`` on held-out ``samples``.

    Nothing was judged where there is one way only; ``chosen_flags`` say it. ``labelled``: labels still decide something
    in the way that was chosen (its repair).
    """

    effort: str
    chosen_flags: tuple[str, ...]
    criterion: str = ""
    samples: int = 0
    ways: tuple[Way, ...] = ()
    chosen: int = 0
    notes: tuple[str, ...] = ()
    labelled: bool = False


def ways(options: MergeOptions, models: int, *, calibrated: bool) -> tuple[MergeOptions, ...]:
    """The ways that the effort of ``options`` tries for so many models, the plainest first; one without an effort."""
    if options.method != DEFAULT:
        return (options,)
    how = replace(options, effort=None)
    if not calibrated:
        return (replace(how, method="rebasin", refine="none", answer="mean"),)
    plain = replace(how, method="mudsc-align" if options.width is None else "zipit", refine="none")
    solved = replace(how, method="zipit", refine="ls")
    if options.effort == "fast":
        return (plain,)
    found = [plain, solved]
    if options.width is None:
        found.append(replace(how, method="average", refine="ls"))  # fine-tunes of one base need no matching
    if options.effort == "balanced":
        return tuple(found)
    joint = [name for name, method in METHODS.items() if models > 2 and isinstance(method, JointMethod)]
    for name in (*MATCHERS, *joint):
        method = METHODS[name]
        zips = name in MATCHERS and MATCHERS[name].zips
        if options.width is not None and not zips:
            continue
        mixes = isinstance(method, JointMethod) or (name in MATCHERS and MATCHERS[name].alpha is None)
        for refine in ("none", "ls") if zips else ("none", "ls", "regmean"):
            alphas = GRID if mixes and refine == "none" else (options.weight_share,)
            found += [replace(how, method=name, refine=refine, alpha=alpha) for alpha in alphas]
    return tuple(dict.fromkeys(found))


def flags(options: MergeOptions) -> tuple[str, ...]:
    """The options of one way to merge, as the command line has them."""
    found = ["--method", options.method]
    if options.alpha != MergeOptions().alpha:
        found += ["--alpha", f"{options.alpha}"]
    if options.refine != "none":
        found += ["--refine", options.refine]
    return (*found, "--answer", options.answer)


def best_way(job: Job, every: Sequence[MergeOptions], split: Split, judge: Judge) -> tuple[MergeOptions, EffortReport]:
    """Try every way on ``split.fit``, judge it on ``split.held``, and say which is best, the first among equals.

    Raises InputError where none can be merged.
    """
    trial = replace(job, source=Spread(split.fit, TRIED_ON))
    evidence, together = evidence_of(trial, every), _Together(trial, split)
    tried: list[tuple[tuple[float, float], MergeOptions, Way]] = []
    notes: list[str] = []
    with job.progress("trying ways to merge") as report:
        for index, how in enumerate(every):
            own = replace(trial, options=how)
            try:
                step = repair_step(job.prepared.models.template.graph, job.prepared.typing, how.repair)
                matched = match(own, evidence)
                result, _ = answered(own, merged(own, matched, evidence, step), apart=False)
                verdict = judge(result.weights, matched.matchings)
                agreed = together(result.weights)
            except InputError as error:  # a zip cannot merge what an alignment can
                notes.append(f"{' '.join(flags(how))} was left out: {error}")
                continue
            finally:
                report(index + 1, len(every))
            found = replace(verdict, reconstruction=verdict.reconstruction if agreed is None else agreed)
            tried.append((found.rank, how, Way(flags(how), found.reconstruction, found.accuracy)))
    if not tried:
        raise InputError(f"none of {len(every)} ways can be merged: {notes[-1]}")
    chosen = max(range(len(tried)), key=lambda index: tried[index][0])
    ours = "agreement with the ensemble" if together.answers else "reconstruction"
    criterion, samples = (judge.criterion, judge.samples) if judge.exam is not None else (ours, together.samples)
    how = tried[chosen][1]
    told = EffortReport(
        str(job.options.effort),
        flags(how),
        criterion,
        samples or judge.samples,
        tuple(way for _, _, way in tried),
        chosen,
        tuple(dict.fromkeys(notes)),
    )
    return how, told


class _Together:
    """How well merged weights agree with the parents' ensemble on held-out data, over all outputs that have one."""

    def __init__(self, job: Job, split: Split) -> None:
        self._job, self._held = job, Spread(split.held, JUDGED_BY)
        meanings = [(layer, job.outputs.meanings.get(str(layer.output.name))) for layer in job.outputs.layers]
        self._judged = [
            (layer, meaning)
            for layer, meaning in meanings
            if meaning is not None and meaning.meaning not in ("features", "regression")
        ]
        self.samples = 0

    @property
    def answers(self) -> bool:
        """Whether there is an output that the parents answer together."""
        return bool(self._judged)

    def __call__(self, weights: Weights) -> float | None:
        """The mean over outputs and samples; None where the parents' outputs have no common answer."""
        if not self._judged:
            return None
        job, models = self._job, self._job.prepared.models
        rows = answers_of(
            [layer for layer, _ in self._judged],
            job.network,
            weights,
            (models.template, models.weights),
            self._held,
            provider=job.options.provider,
            seed=job.options.seed,
        )
        agreed = []
        for (layer, meaning), found in zip(self._judged, rows, strict=True):
            vectors = job.outputs.vectors_of(meaning)
            reading = reading_of(meaning, found.parents, vectors, job.options.seed)
            judge = agreement(layer, reading, job.shares)
            agreed.append(float(judge(found.merged, found.parents).mean()))
            self.samples = len(np.unique(found.samples))
        return float(np.mean(agreed))
