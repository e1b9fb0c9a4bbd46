"""``--effort``: try whole ways to merge, and take the one whose answers agree best with the parents' ensemble.

What a method or a refinement does for a pair of networks depends on the pair: least squares after a zip is far better
than an average for networks trained apart, and may be worse for fine-tunes of one base. So each way is tried, on some
of the calibration data, up to its last layers, and judged on samples that none of it has seen. The one that is best is
then done in full, on all of the data, exactly as if it had been asked for by its own options.

``--method auto`` with a base does the same with every method that adds to one. Methods that match units are not among
them: all models are in the order of the base before (``pipeline.ordering``), so there is nothing left to match, and
their mean is what task arithmetic comes to at a small scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from onnxmerge.calibration.subset import Split, cuts, holds
from onnxmerge.contracts import AUTO, describe, flag
from onnxmerge.errors import InputError, UsageError
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.reconstruction import NothingToCompareError
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.pipeline.consistency import decidable, require_consistent
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.methods import takers
from onnxmerge.pipeline.options import DEFAULT, MergeOptions
from onnxmerge.pipeline.ordering import in_disorder
from onnxmerge.pipeline.selection.held_out import (
    PLENTY,
    CandidateScore,
    HeldOutEvaluator,
    evaluator_on,
    held_out,
    in_brief,
)
from onnxmerge.pipeline.selection.labelled import EvaluationTasks
from onnxmerge.pipeline.selection.scaling import answers_in, choose_scale, scaled_methods
from onnxmerge.pipeline.selection.trials import TrialScore, trials_on

WITHOUT_DATA = (
    "there is no calibration data, so units were matched by weights alone and nothing was measured; with --calib DATA "
    "statistics are repaired, layers are solved for what the parents compute, and the best way is found"
)

BASED = "tsv-m"
"""The method for fine-tunes of a base: the best without data of those that were measured (docs/task-vectors.md)."""

BASED_WITHOUT_DATA = (
    "there is no calibration data, so what the models learnt was added up at the method's own scale; with --calib DATA "
    "the scale is found"
)


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

    The effort is None where it was ``--method auto`` that tried every method for a base. Nothing was judged where there
    is one way only; ``chosen_flags`` say it.
    """

    effort: str | None
    chosen_flags: tuple[str, ...]
    criterion: str = ""
    samples: int = 0
    ways: tuple[Way, ...] = ()
    chosen: int = 0
    notes: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """What asked for it, as the command line has it."""
        return f"--method {AUTO}" if self.effort is None else f"--effort {self.effort}"


def ways(
    options: MergeOptions, models: int, *, calibrated: bool, based: bool = False, own: bool = False
) -> tuple[MergeOptions, ...]:
    """The ways that the effort of ``options`` tries for so many models, the plainest first; one without an effort.

    ``calibrated`` and ``own`` say whether there is calibration data, and of each model's own; ``based``: the model is
    given that all were fine-tuned from. Raises UsageError where methods for it cannot be searched.
    """
    if based and options.method == AUTO:
        return _searched_ways(options, models, calibrated=calibrated)
    if options.method != DEFAULT:
        return (options,)
    if based:
        return _based_ways(options, models, calibrated=calibrated)
    answer = options.answer
    if answer == AUTO:
        answer = "ensemble" if calibrated else "mean"
    how = replace(options, effort=None, answer=answer)
    if not calibrated:
        return (replace(how, method="rebasin" if options.width is None else "weight-zip", refine="none"),)
    plain = replace(how, method="mudsc-align" if options.width is None else "zipit", refine="none")
    if options.effort == "fast":
        return (plain,)
    found = [plain, how.by("zipit", "ls", zip_unit="member")]
    if options.width is None:
        found.append(how.by("average", "ls"))  # fine-tunes of one base need no matching
    if options.effort == "balanced":
        return tuple(found)
    for name, matcher in MATCHERS.items():
        if models < matcher.least_models or (options.width is not None and not matcher.zips):
            continue
        refinements = [
            each.name
            for each in REFINEMENTS.values()
            if not (each.one_to_one and matcher.zips) and (own or "own data" not in each.needs)
        ]
        found += [how.by(name, "none", **numbers) for numbers in _numbers(matcher)]
        found += [how.by(name, refine) for refine in refinements]
        if "zip_unit" in matcher.option_names:
            found.append(how.by(name, "ls", zip_unit="member"))
    return tuple(dict.fromkeys(found))


def _based_ways(options: MergeOptions, models: int, *, calibrated: bool) -> tuple[MergeOptions, ...]:
    """Ways to add up what models learnt since their base, whose scale and depth are found where there is data."""
    how = replace(options, effort=None, answer="mean" if options.answer == AUTO else options.answer)
    refine = "none" if options.refine == AUTO else options.refine
    plain = how.by(BASED, refine)
    if not calibrated or options.effort == "fast":
        return (plain,)
    every = [BASED] if options.effort == "balanced" else [BASED, *scaled_methods(models)]
    return (plain, *dict.fromkeys(how.by(name, refine, scale=AUTO, depth=AUTO) for name in every))


def _searched_ways(options: MergeOptions, models: int, *, calibrated: bool) -> tuple[MergeOptions, ...]:
    """The ways that ``--method auto`` tries with a base: those of the greatest effort.

    Raises UsageError where there is nothing to judge them by, and for an option that none of them has.
    """
    if not calibrated:
        raise UsageError(
            f"--method {AUTO} with --base compares what the models learnt on held-out samples: give calibration data "
            f"(--calib), or leave --method out ({BASED})"
        )
    found = _based_ways(options, models, calibrated=True)
    for name, _ in options.own:
        if not any(name in dict(way.own) for way in found):
            told = "methods for models of one pretraining, of which none uses it; leave it out"
            raise UsageError(f"{takers(name)}; --method {AUTO} with --base tries {told}")
    return found


def _numbers(matcher: Matcher[Any]) -> list[dict[str, float]]:
    """Every choice of the numbers that a search may choose for a matcher; one, of none, where there are none."""
    tried = {name: told.tried for name, told in describe(matcher.options).items() if told.tried}
    return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]


def flags(options: MergeOptions) -> tuple[str, ...]:
    """The options of one way to merge, as the command line has them."""
    found = ["--method", options.method]
    for name, value in options.own:
        found += [flag(name), f"{value}"]
    if options.refine != "none":
        found += ["--refine", options.refine]
    return (*found, "--answer", options.answer)


def possible_ways(
    options: MergeOptions, models: int, *, calibrated: bool, labelled: bool | None, based: bool, own: bool = False
) -> tuple[MergeOptions, ...]:
    """Those of the `ways` that can be done with what is given. Raises UsageError where none can.

    ``labelled`` is None where nobody says yet whether there are labels.
    """
    found, errors = [], []
    for way in ways(options, models, calibrated=calibrated, based=based, own=own):
        decides = labelled and (based or options.effort is None or decidable(way))
        try:
            require_consistent(way, models, calibrated=calibrated, own=own, labelled=decides, based=based)
            found.append(way)
        except UsageError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return tuple(found)


def chosen_way(
    job: Job, options: MergeOptions, every: Sequence[MergeOptions], asked: EvaluationTasks | None
) -> tuple[MergeOptions, EffortReport | None]:
    """Which of the ways to merge is taken, and how that was found: None where there was one to be taken.

    ``job`` has all of the data; ``options`` are what the user asked for, ``asked`` what labels say of the data.

    Raises InputError where no way can be merged, or labels do not fit; who asked for a search gets no way without.
    """
    searched = job.base is not None and options.method == AUTO
    if options.effort is None and not searched:
        return every[0], None
    only = EffortReport(options.effort, flags(every[0]))
    if job.source is None:
        return every[0], replace(only, notes=(WITHOUT_DATA if job.base is None else BASED_WITHOUT_DATA,))
    if len(every) == 1:
        return every[0], only
    if not searched and not holds(job.source, PLENTY):
        told = f"with fewer than {PLENTY} samples, only {' '.join(only.chosen_flags)} was tried"
        return every[0], replace(only, notes=(told,))
    split = held_out(job.source, job.prepared.models)
    job = replace(job.on(split.fit), options=options)
    try:
        evaluator = evaluator_on(job, split.held, None if asked is None else asked.held_out(split))
        if job.base is not None:
            answers_in(evaluator.reference)  # raises where no scale can be found
    except NothingToCompareError as error:
        if searched:
            raise
        return every[0], replace(only, notes=(f"only {' '.join(only.chosen_flags)} was tried: {error}",))
    return _best(job, every, split, evaluator)


def _worth_trying(job: Job, every: Sequence[MergeOptions]) -> tuple[Sequence[MergeOptions], tuple[str, ...]]:
    """The ways, without those that take units as they stand where they stand in other orders, and what is left out.

    The greatest effort tries everything.
    """
    still = [how for how in every if how.matcher is not None and not how.matcher.moves]
    if job.options.effort == "best" or len(still) in (0, len(every)) or not in_disorder(job):
        return every, ()
    told = "was not tried: the models' units seem to stand in other orders"
    left = [f"{' '.join(flags(how))} {told}" for how in still]
    return [how for how in every if how not in still], tuple(left)


def _best(
    job: Job, every: Sequence[MergeOptions], split: Split, evaluator: HeldOutEvaluator
) -> tuple[MergeOptions, EffortReport]:
    """Try every way on ``split.fit``, judge it on ``split.held``, and say which is best, the first among equals."""
    every, left_out = _worth_trying(job, every)
    judge = (
        _by_parents(job, every, split, evaluator) if job.base is None else _by_what_was_learnt(job, split, evaluator)
    )
    tried: list[tuple[CandidateScore, MergeOptions]] = []
    notes = [*left_out]
    samples = evaluator.samples
    with job.progress("trying ways to merge") as report:
        for index, (how, score) in enumerate(zip(every, judge.scores(every), strict=True)):
            report(index + 1, len(every))
            if isinstance(score, InputError):
                notes.append(f"{' '.join(flags(how))} was left out: {score}")
                continue
            agreed, mark, samples = score
            tried.append((CandidateScore(agreed, mark), how))
    if not tried:
        raise InputError(f"none of {len(every)} ways can be merged: {notes[-1]}")
    chosen = max(range(len(tried)), key=lambda index: tried[index][0].rank)
    if not np.isfinite(tried[chosen][0].rank).all():
        notes.append("no way could be judged, for none gives finite values on held-out samples; the first was taken")
    how = tried[chosen][1]
    return how, EffortReport(
        job.options.effort,
        flags(how),
        judge.criterion,
        samples if evaluator.by_labels is None else evaluator.samples,
        tuple(Way(flags(each), score.reconstruction, score.accuracy) for score, each in tried),
        chosen,
        notes=tuple(dict.fromkeys(notes)),
    )


_Scores: TypeAlias = Iterator[TrialScore | InputError]


@dataclass(frozen=True, slots=True)
class _Judge:
    """How ways are judged: their ``scores``, or why models cannot be merged so, and that in words."""

    criterion: str
    scores: Callable[[Sequence[MergeOptions]], _Scores]


def _by_parents(job: Job, every: Sequence[MergeOptions], split: Split, evaluator: HeldOutEvaluator) -> _Judge:
    """By agreement with the parents' answers, or by labels."""
    trials = trials_on(job, split, every, job.options.effort)
    trying = _Trying(partial(trials.score, evaluator))
    return _Judge(
        trials.criterion(evaluator),
        lambda every: trials.kept_each("effort", every, trying),
    )


def _by_what_was_learnt(job: Job, split: Split, evaluator: HeldOutEvaluator) -> _Judge:
    """By agreement on what each model learnt since the base, at the best scale (``selection.scaling``)."""
    data = [cuts(source) for source in (split.fit, split.held)]
    trying = _Trying(partial(_learnt, in_brief(job), evaluator))

    def scores(every: Sequence[MergeOptions]) -> _Scores:
        def computed(places: Sequence[int]) -> _Scores:
            return job.executor.map(trying, [every[place] for place in places])

        return job.store.kept_each("trial-learnt", [(how, data) for how in every], computed)

    return _Judge("agreement on what each model learnt", scores)


@dataclass(frozen=True, slots=True, eq=False)
class _Trying:
    """The work of trying ways to merge: options go in, ``score`` comes out, or why the models cannot be merged so."""

    score: Callable[[MergeOptions], TrialScore]

    def open(self) -> Callable[[MergeOptions], TrialScore | InputError]:
        """Nothing is to be got ready."""

        def score(how: MergeOptions) -> TrialScore | InputError:
            try:
                return self.score(how)
            except InputError as error:  # a zip cannot merge what an alignment can
                return error

        return score


def _learnt(few: Job, evaluator: HeldOutEvaluator, how: MergeOptions) -> TrialScore:
    """How well a merge agrees with its parents on what they learnt, at the best scale, and on how many samples."""
    _, report = choose_scale(replace(few, options=how), evaluator)
    return report.candidates[report.chosen].agreement, None, report.samples
