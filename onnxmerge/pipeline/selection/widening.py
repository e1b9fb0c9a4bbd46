"""``--width auto``: the smallest network that agrees with the parents' ensemble within so many points.

What has no room in a group of merged units is lost, and more units cost parameters in every weight around them. So
groups are widened one by one, those first where a parameter gives most room for what the parents do
(``resizing.ladder``), and a few rungs of this ladder are merged, each in the one way to merge that was chosen before,
on some of the data. Held-out samples judge them as they judge ways to merge: by agreement with the ensemble, or by
labels. What has to be reached is what the parents' common answer itself reaches, by the same judge, less the points. It
is no function of what a merged last layer reads, so perhaps no width reaches that: then it is the better one of the two
ends of the ladder that counts. The ends come first, then halves of what lies between: agreement rises along the ladder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxmerge.activations.joint import joint_variance
from onnxmerge.calibration.subset import Split, holds
from onnxmerge.contracts import AUTO
from onnxmerge.errors import InputError, UsageError
from onnxmerge.model.footprint import Footprint, footprint, parameters
from onnxmerge.pipeline.forecasting import WIDEST, compared_together, expected_agreement
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.meanings import at_its_widths
from onnxmerge.pipeline.options import Effort, MergeOptions, Size, without
from onnxmerge.pipeline.resizing import merged_units, widenable
from onnxmerge.pipeline.selection.held_out import PLENTY, evaluator_on, held_out
from onnxmerge.pipeline.selection.labelled import EvaluationTasks
from onnxmerge.pipeline.selection.trials import Trials, trials_on
from onnxmerge.resizing.ladder import Fractions, Widenable, ladder
from onnxmerge.resizing.shapes import shapes_at
from onnxmerge.text import counted
from onnxmerge.units.resize import Widths


@dataclass(frozen=True, slots=True)
class WidthsCandidate:
    """Widths that were tried, as the command line has them, what the network costs, and how it did on held-out samples.

    ``accuracy`` is None without labels.
    """

    widths: str
    parameters: int
    flops: int
    agreement: float
    accuracy: float | None = None

    @property
    def score(self) -> float:
        """What decides; what is not a number comes last."""
        found = self.agreement if self.accuracy is None else self.accuracy
        return found if math.isfinite(found) else -math.inf


@dataclass(frozen=True, slots=True)
class WidthsReport:
    """Which widths were tried, from small to large, and which was ``chosen`` by ``criterion`` on held-out ``samples``.

    ``ensemble`` is what the parents' common answer itself reaches (None: nothing that compares), ``least`` what had to
    be reached: that less ``within`` points, or, where no width reaches it (not ``reached``), the better one of the ends
    less these points. ``groups`` can have another width, ``kept`` cannot.
    """

    criterion: str
    samples: int
    smallest_in: Size
    within: float
    ensemble: float | None
    least: float
    reached: bool
    candidates: tuple[WidthsCandidate, ...]
    chosen: int
    groups: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> str:
        """Those that were chosen."""
        return self.candidates[self.chosen].widths

    @property
    def chosen_flags(self) -> tuple[str, ...]:
        """The same, as the command line has them."""
        return "--width", self.widths


def widened(
    job: Job, how: MergeOptions, asked: EvaluationTasks | None, effort: Effort | None
) -> tuple[MergeOptions, WidthsReport | None]:
    """The way to merge with the widths that were found, and how they were: None where they were said.

    ``job`` has all of the data, ``asked`` is what labels say of it. ``effort`` says how much data merges are tried on.

    Raises UsageError where there is too little data to judge by, InputError where labels do not fit, or the models
    cannot be merged at their own widths.
    """
    if not how.widens:
        return how, None
    climb = climb_on(job, how, asked, effort)
    found = climb.report()
    return climb.at(found.widths), found


def climb_on(job: Job, how: MergeOptions, asked: EvaluationTasks | None, effort: Effort | None) -> Climb:
    """The ladder of the widths of one way to merge, and what judges networks on it. Raises what ``widened`` raises."""
    source, prepared = job.source, job.prepared
    if source is None or not holds(source, PLENTY):
        raise UsageError(f"--width {AUTO} judges by held-out samples: give {PLENTY} samples or more, or numbers")
    split = held_out(source, prepared.models)
    trials = trials_on(replace(job, options=how), split, [how], effort)
    names, kept = widenable(prepared, how)
    labels = None if asked is None else asked.held_out(split)
    return Climb(trials, split, labels, names, kept, _rungs(trials, names))


@dataclass(slots=True, eq=False)
class Climb:
    """The ``rungs`` of a ladder, as the command line has widths, and what came of those that were ``tried``.

    ``names`` are the groups that can have another width, ``kept`` those that cannot; ``asked`` is what labels say of
    the samples that are held out.
    """

    trials: Trials
    split: Split
    asked: EvaluationTasks | None
    names: Sequence[str]
    kept: Sequence[str]
    rungs: Sequence[str]
    criterion: str = ""
    samples: int = 0
    tried: dict[int, WidthsCandidate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self) -> WidthsReport:
        """Find the lowest rung that is good enough. Raises InputError where not even the lowest can be merged."""
        how = self.trials.job.options
        ensemble = _ensemble(self.trials) if self.asked is None else None
        chosen, least, reached = self._smallest(ensemble, how.within / 100)
        places = sorted(self.tried)
        found = WidthsReport(
            self.criterion,
            self.samples,
            how.smallest_in,
            how.within,
            ensemble,
            least,
            reached,
            tuple(self.tried[place] for place in places),
            places.index(chosen),
            tuple(self.names),
            tuple(self.kept),
        )
        return replace(found, notes=(*_notes(found), *self.notes))

    def _smallest(self, ensemble: float | None, points: float) -> tuple[int, float, bool]:
        """The lowest rung that reaches what has to be reached, that, and whether it is by what the ``ensemble`` is."""
        top = len(self.rungs) - 1
        total = 2 + max(top - 1, 0).bit_length()
        with self.trials.job.progress("widening") as report:

            def score(place: int) -> float:
                found = self._score(place)
                report(len(self.tried), total)
                return found

            first = score(0)
            if ensemble is not None and first >= ensemble - points:
                return 0, ensemble - points, True
            last = score(top) if top else first
            reached = ensemble is not None and last >= ensemble - points
            least = ensemble - points if ensemble is not None and reached else max(first, last) - points
            if not first < least:
                return 0, least, reached
            below, found = 0, top
            while found - below > 1:
                middle = (below + found) // 2
                below, found = (below, middle) if score(middle) >= least else (middle, found)
        return found, least, reached

    def _score(self, place: int) -> float:
        """What decides of the merge at a rung; a rung that cannot be merged is left out, but for the lowest."""
        try:
            self.tried[place] = self.judged(self.rungs[place])
        except InputError as error:
            if place == 0:
                raise
            self.notes.append(f"--width {self.rungs[place]} was left out: {error}")
            return -math.inf
        return self.tried[place].score

    def judged(self, widths: str) -> WidthsCandidate:
        """What a network of some widths costs, and how well it does. Raises InputError where it cannot be merged."""
        how = self.at(widths)
        trials = replace(self.trials, job=at_its_widths(replace(self.trials.job, options=how)))
        job = trials.job
        _require_same_outputs(self.trials, trials)
        evaluator = evaluator_on(job, self.split.held, self.asked)
        agreed, mark, samples = trials.kept("width", how, partial(trials.score, evaluator, how))
        self.samples = samples if evaluator.by_labels is None else evaluator.samples
        self.criterion = trials.criterion(evaluator)
        flops = _footprint(job, {} if job.resized is None else job.resized.widths).flops
        return WidthsCandidate(widths, parameters(job.network), flops, agreed, mark)

    def at(self, widths: str) -> MergeOptions:
        """The way to merge at some widths."""
        width: float | str = widths if "=" in widths else float(widths)
        return without(replace(self.trials.job.options, width=width), ("within", "smallest_in"))


def _rungs(trials: Trials, names: Sequence[str]) -> list[str]:
    """The ladder of the groups of these names, by what room their units need, as the command line has widths."""
    job, size = trials.job, trials.job.options.smallest_in
    prepared, models = job.prepared, len(job.prepared.models.weights)
    spaces = prepared.typing.spaces
    seen = trials.measurements.statistics
    grams = {} if seen is None else seen.gram
    if not all(name in grams for name in names):
        grams = compared_together(job)[0]
    readers = Counter(name for _, _, name in prepared.typing.consumed)
    groups = [
        Widenable(
            name,
            spaces[name].size,
            max(readers[name], 1),
            joint_variance(grams[name], models) if name in grams and models * spaces[name].size <= WIDEST else None,
        )
        for name in names
    ]

    def cost(fractions: Fractions) -> int:
        widths = {name: merged_units(fraction, spaces[name].size) for name, fraction in fractions.items()}
        found = _footprint(job, widths)
        return found.parameters if size == "parameters" else found.flops

    _, *rungs = ladder(groups, models, cost)
    told = [",".join(f"{name}={rung[name]:g}" for name in names if name in rung) for rung in rungs[:-1]]
    return ["1", *told, *([f"{models}"] if rungs else [])]


def _footprint(job: Job, widths: Widths) -> Footprint:
    """What the network would cost with groups of these widths."""
    prepared = job.prepared
    shapes = shapes_at(prepared.trace.shapes, prepared.typing, widths)
    return footprint(prepared.models.template, shapes, prepared.batch)


def _ensemble(trials: Trials) -> float | None:
    """What the parents' common answer itself reaches on held-out samples; None where they answer nothing together."""
    pairs = zip(trials.together, trials.on_held, strict=True)
    found = [expected_agreement(trials.job, layer, meaning, own.parents, (1.0,))[0] for (layer, meaning), own in pairs]
    return float(np.mean(found)) if found else None


def _require_same_outputs(plain: Trials, wide: Trials) -> None:
    """Raise InputError where a last layer cannot be solved any more, so that scores would not be of the same."""
    names = [[str(layer.output.name) for layer, _ in each.together] for each in (plain, wide)]
    if names[0] != names[1]:
        raise InputError(f"the last layer of {next(name for name in names[0] if name not in names[1])} is too wide")


def _notes(found: WidthsReport) -> list[str]:
    notes = [f"keep their width: {', '.join(found.kept)}"] if found.kept else []
    if not found.groups:
        notes.append("no group of these models can have another width, so the merged one is as wide as one of them")
    elif found.ensemble is not None and not found.reached:
        best, points = max(each.score for each in found.candidates), counted(found.within, "point")
        notes.append(
            f"no width comes within {points} of the ensemble ({found.ensemble:.4f}; the best reaches {best:.4f}), so "
            "the smallest was taken that is so near to the better one of the narrowest and the widest"
        )
    return notes
