"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onnxmerge.api.cluster import executor_on
from onnxmerge.api.outcome import MergePlan, MergeReport, MergeResult, group_reports
from onnxmerge.api.reporting import report_of
from onnxmerge.calibration.sources import SourceSpec
from onnxmerge.calibration.subset import Split, holds
from onnxmerge.contracts import AUTO
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.labels import LabelSpec
from onnxmerge.heads.assembly import readings
from onnxmerge.matching.overrides import overrides
from onnxmerge.merging.answer.answer import Answered
from onnxmerge.merging.answer.meaning import asked_meanings
from onnxmerge.merging.answer.outputs import ClassVectors
from onnxmerge.model.footprint import Footprint
from onnxmerge.model.paths import absolute
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.tokens import TokenSource
from onnxmerge.model.training import Roles
from onnxmerge.pipeline.answering import answered
from onnxmerge.pipeline.beginning import (
    MergeInputs,
    PreparedMerge,
    divided,
    of_data,
    ordered,
    prepare_merge,
    read_data,
    relies_on_groups,
)
from onnxmerge.pipeline.consistency import decidable
from onnxmerge.pipeline.details.layers import LayersReport, layers_report
from onnxmerge.pipeline.details.merge import MergeDetails, details_of
from onnxmerge.pipeline.forecasting import Forecast
from onnxmerge.pipeline.forecasting import forecast as forecast_of
from onnxmerge.pipeline.job import Job, Progress, Stages, silent
from onnxmerge.pipeline.matching import measured
from onnxmerge.pipeline.meanings import at_its_widths, known_vectors, output_names, outputs_of
from onnxmerge.pipeline.options import Effort, MergeOptions, merge_options
from onnxmerge.pipeline.prepare import ModelSource
from onnxmerge.pipeline.provenance import canonical_recipe
from onnxmerge.pipeline.publish import sources
from onnxmerge.pipeline.quantising import QuantisedReport, in_output_type
from onnxmerge.pipeline.restoring import Merged, merged
from onnxmerge.pipeline.selection.choosing import SelectedMatching, chosen_by, matched_by
from onnxmerge.pipeline.selection.effort import EffortReport, chosen_way, possible_ways
from onnxmerge.pipeline.selection.held_out import PLENTY, HeldOutEvaluators
from onnxmerge.pipeline.selection.labelled import EvaluationTasks, evaluation_tasks
from onnxmerge.pipeline.selection.repairing import ChosenRepair, choose_repair, may_repair
from onnxmerge.pipeline.selection.search import choices
from onnxmerge.pipeline.selection.weighing import WeightsReport, weighed
from onnxmerge.pipeline.selection.widening import WidthsReport, widened
from onnxmerge.pipeline.separation import MergedModel, Parents, joined
from onnxmerge.pipeline.store import NO_STORE, begin, work_folder
from onnxmerge.pipeline.tasks import TaskSpec
from onnxmerge.pipeline.training import for_training
from onnxmerge.pipeline.validate import errors, footprints, require_finite
from onnxmerge.pipeline.vocabulary import require_lists
from onnxmerge.units.flow import flow_of
from onnxmerge.validation.coverage import coverage


def merge(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    calibration_of: Sequence[SourceSpec] | None = None,
    base: ModelSource | None = None,
    vocab: Sequence[TokenSource] | None = None,
    labels: LabelSpec | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    progress: Progress | None = None,
    details: bool = False,
    stages: Stages = nullcontext,
    work_dir: str | Path | None = None,
    resume: bool = False,
    cluster: str | None = None,
    worker_cpus: int = 1,
    **settings: Any,
) -> MergeResult:
    """Merge models of one structure into one, or models of one trunk into one with a head for each.

    Args:
        models: Paths or models in memory, two or more. The first is the template for names, opset and metadata.
        calibration: Unlabelled data the models can run on: a path (.npy, .npz, a folder of these or of images,
            ``script.py:function``), arrays, or a reader. Optional for methods that compare no activations.
        calibration_of: Such data for each model, in order: of its own task. ``regmean``, ``regmean++`` and ``featcal``
            measure each model on its own; everything else on ``calibration``, or without it on all of these,
            interleaved. ``samples`` holds for each.
        base: The model that all others were fine-tuned from: for the methods that add task vectors to it.
        vocab: For language models whose vocabularies differ, the tokens of each model in order of their ids, and those
            of the base behind them: a file (one token a line, or in a .json a mapping of tokens to ids), or the tokens.
            ``merged_vocab`` says which the merged model has; calibration data is in *its* ids (docs/merging.md).
        labels: Labels of the calibration samples (see `evaluate`; -1: none), by which a search is decided instead, and
            the models of a greedy soup are taken: by the mean over tasks of accuracies, or scaled scores of regressions
            (``selection.labelled``).
        tasks: What labels mean, and which output answers: see `evaluate`. By default classes of the first output.
            With class vectors in them, also what the ensemble's answer is read by (``answer="ensemble"``).
        vectors: File of class vectors that outputs are compared with: see `evaluate`.
        options: How to merge.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        inputs: Shape or value of inputs of the first model, by name: of the traced sample where there is no data; with
            data, the values (one row each) of inputs that it lacks.
        progress: Makes progress displays; silent by default.
        details: Measure what a report shows: units, layers and outputs one by one (``MergeResult.details``).
        stages: Is entered for each stage while it lasts.
        work_dir: Folder in which results of stages are kept, and looked for (docs/outputs.md); it may not be there yet.
        resume: Refuse a ``work_dir`` that was kept for another merge.
        cluster: Where to measure, match and try: "local" starts a Ray cluster on this machine for it, "auto" and
            "HOST:PORT" are one that runs (docs/scaling.md); by default all is done in this process.
        worker_cpus: Processor cores of each of its workers.
        **settings: The fields of ``options`` one by one, instead of it (``method="rebasin"``, ``alpha=0.3``), and the
            own options of method and refinement (``method="ties"``, ``density=0.3``; docs/task-vectors.md).

    Raises:
        InputError: a model or the calibration data cannot be used. StructureError: the models differ in structure.
        UsageError: the options contradict each other.
        ValidationError: a certificate failed, or the merged model gives values that are not finite.

    """
    given = MergeInputs(calibration, base, image_options or {}, inputs or {}, calibration_of, vocab)
    asked_for = _settled(options, settings)
    every = _possible(models, given, asked_for, labelled=labels is not None)
    work = _work(work_dir, resume=resume)
    with executor_on(cluster, worker_cpus, asked_for.provider) as executor:
        shown, prove = progress or silent, relies_on_groups(given, every)
        begun = ordered(read_data(prepare_merge(models, given, every[0], shown, stages, prove=prove)))
        asked = evaluation_tasks(labels, tasks, vectors, data=calibration, models=models, parents=begun.parents)
        known = known_vectors(tasks, vectors, models, begun.parents, every[0], labelled=labels is not None)
        recipe = _recipe(begun, given, known)
        store = NO_STORE if work is None else begin(work, asked_for, partial(recipe, asked=asked), resume=resume)
        with begun.clock.stage("try"):
            outputs = outputs_of(begun.job, known)
            begun = replace(begun, job=replace(begun.job, outputs=outputs, store=store, executor=executor))
            how, effort = chosen_way(begun.job, asked_for, every, asked)
        way = _settled_way(begun, how, effort, asked, asked_for.effort)
        selected, evaluators = _selected(way)
        product = _produced(way, selected, evaluators)
        with begun.clock.stage("check"):
            require_finite(begun.parents, way.job.prepared, product.model, way.job.options.provider)
        compared = _compared(way, selected, product, evaluators)
        seen = _details(way, selected, product) if details else None
        report = _report(way, selected, product, compared, recipe, vectors=bool(known))
    read = sources("one of the models", *models, base, model=True)
    data = (calibration, *(calibration_of or ()), labels, tasks, vectors, way.job.options.operators)
    read += sources("one of the token lists", *(vocab or ())) + sources("the data", *data)
    flow = flow_of(way.job.prepared.traced.graph, way.job.prepared.typing)
    return MergeResult(product.model.network, product.model.weights, report, read, flow, seen, begun.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """The way to merge that was chosen, and how: the options of its ``job`` have numbers for all that was to be found.

    ``asked`` are the tasks that decide what is left to decide (None: labels decided all, or there are none).
    """

    prepared: PreparedMerge
    asked: EvaluationTasks | None
    effort: EffortReport | None
    weighing: WeightsReport | None
    widening: WidthsReport | None

    @property
    def job(self) -> Job:
        return self.prepared.job


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """The ``model`` as it will be written, ``floats`` before it was quantised or halved, and what made it."""

    repair: ChosenRepair
    merged: Merged
    answers: tuple[Answered, ...]
    floats: MergedModel
    model: MergedModel
    quantised: QuantisedReport | None
    training: Roles | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """How the product compares with its parents: relative errors, what they cost, and layer by layer."""

    errors: tuple[float | None, ...] | None
    footprints: tuple[Footprint, ...]
    layers: LayersReport | None


def _recipe(begun: PreparedMerge, given: MergeInputs, known: ClassVectors) -> Callable[..., str]:
    """What writes down all that the merge is made from, for options (and ``asked``) that are not settled yet."""
    base, source, vocabulary = begun.job.base, begun.source, begun.vocabulary
    return partial(
        canonical_recipe,
        models=tuple(network.sha256 for network in begun.job.prepared.models.sources),
        base=None if base is None else base.network.sha256,
        calibration=None if given.calibration is None or source is None else source.digest(),
        calibration_of=tuple(own.digest() for own in begun.own) or None,
        inputs=given.inputs,
        vectors=known,
        vocabulary=None if vocabulary is None else vocabulary.tokens,
    )


def _settled_way(
    begun: PreparedMerge,
    how: MergeOptions,
    tried: EffortReport | None,
    asked: EvaluationTasks | None,
    effort: Effort | None,
) -> _Way:
    """The way with the weights and widths that were left to be found, and with data held out for what it chooses."""
    with begun.clock.stage("weigh") if how.weighs else nullcontext():
        how, weighing = weighed(begun.job, how, asked, effort)
    with begun.clock.stage("widen") if how.widens else nullcontext():
        how, widening = widened(begun.job, how, asked, effort)
        if widening is not None:
            begun = replace(begun, job=at_its_widths(replace(begun.job, options=how)))
    asked = asked if decidable(how) else None  # labels may have decided all that there was to decide
    return _Way(divided(begun, how, labelled=asked is not None), asked, tried, weighing, widening)


def _selected(way: _Way) -> tuple[SelectedMatching, HeldOutEvaluators]:
    """The parents measured and matched, and what judges on held-out data."""
    job, clock = way.job, way.prepared.clock
    with clock.stage("calibrate"):
        trials, split = choices(job.options, len(job.prepared.models.weights)), way.prepared.split
        measurements = measured(job, trials, may_repair(job, split))
    with clock.stage("match"):
        evaluators = chosen_by(split, way.asked)
        return matched_by(job, measurements, evaluators), evaluators


def _produced(way: _Way, selected: SelectedMatching, evaluators: HeldOutEvaluators) -> _Product:
    """The average, repaired or refined, with its answers settled, in the type and form in which it will be written."""
    prepared, parents = way.prepared, way.prepared.parents
    with prepared.clock.stage("merge"):
        repair = choose_repair(selected.job, selected.matched, selected.measurements, evaluators)
        result = repair.merged or merged(selected.job, selected.matched, selected.measurements, repair.step)
        result, answers = answered(selected.job, result, apart=parents.separation is not None)
        floats = _whole(parents, selected, result)
        model, quantised = in_output_type(way.job, prepared.schemes, floats, prepared.source)
        model, roles, notes = for_training(way.job, model)
    return _Product(repair, result, answers, floats, model, quantised, roles, notes)


def _compared(way: _Way, selected: SelectedMatching, product: _Product, evaluators: HeldOutEvaluators) -> _Compared:
    """What became of the parents in the product."""
    prepared = way.prepared
    with prepared.clock.stage("compare"):
        return _Compared(
            _errors(prepared, product.model, evaluators),
            footprints(prepared.parents, way.job.prepared, product.floats),
            _layers(selected, product.merged, product.answers, prepared.split),
        )


def _details(way: _Way, selected: SelectedMatching, product: _Product) -> MergeDetails:
    """What a report shows unit by unit."""
    prepared = way.prepared
    with prepared.clock.stage("details"):
        return details_of(
            selected.job,
            selected.matched,
            selected.measurements,
            product.merged.weights,
            product.answers,
            parents=prepared.parents,
            product=product.model,
            held=None if prepared.split is None else prepared.split.held,
        )


def _report(
    way: _Way,
    selected: SelectedMatching,
    product: _Product,
    compared: _Compared,
    recipe: Callable[..., str],
    *,
    vectors: bool,
) -> MergeReport:
    """All that the stages found, in one report."""
    prepared, how = way.prepared, way.job.options
    certificates, seconds = prepared.certificates, prepared.clock.seconds
    report = report_of(selected, certificates, product.merged, product.repair, product.model, seconds=seconds)
    notes = (*prepared.notes, *report.notes, *product.notes, *of_data(prepared), *way.job.store.notes())
    return replace(
        report,
        footprints=compared.footprints,
        reconstruction=compared.errors,
        held_out=prepared.split is not None,
        notes=tuple(dict.fromkeys(notes)),
        recipe=recipe(how, asked=way.asked),
        answers=product.answers,
        effort=way.effort,
        weighing=way.weighing,
        widening=way.widening,
        quantised=product.quantised,
        layers=compared.layers,
        training=product.training,
        labelled=way.asked is not None,
        vectors=vectors,
        vocabulary=None if prepared.vocabulary is None else prepared.vocabulary.report(how.merged_vocab),
    )


def plan(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    calibration_of: Sequence[SourceSpec] | None = None,
    base: ModelSource | None = None,
    vocab: Sequence[TokenSource] | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    progress: Progress | None = None,
    forecast: bool = False,
    **settings: Any,
) -> MergePlan:
    """What ``merge`` would do, up to where it would begin to measure: models paired up, typed and certified.

    Takes the arguments of ``merge`` and raises what it raises so far. With ``forecast`` the models run on a few samples
    of the calibration data, and the plan says what the merge is expected to come to (``pipeline.forecasting``); tasks
    and class vectors say what their answers are read by.
    """
    if not forecast and (tasks is not None or vectors is not None):
        raise UsageError("tasks and class vectors are for a forecast: ask for one (forecast=True)")
    given = MergeInputs(calibration, base, image_options or {}, inputs or {}, calibration_of, vocab)
    asked_for = _settled(options, settings)
    every = _possible(models, given, asked_for, labelled=None)
    how = every[0]
    begun = prepare_merge(models, given, how, progress or silent, nullcontext, prove=relies_on_groups(given, every))
    expected = _forecast(begun, models, tasks, vectors) if forecast else None
    prepared_merge = divided(begun, how, labelled=False)
    job, prepared = prepared_merge.job, prepared_merge.job.prepared
    overrides(how.groups, prepared.typing)  # raises for a rule that names no group
    asked_meanings(how.outputs, output_names(prepared_merge.parents.models.template.graph))  # the same for an output
    plenty = prepared_merge.source is not None and holds(prepared_merge.source, PLENTY)
    tried = every if plenty or asked_for.method == AUTO else every[:1]
    border = None if prepared_merge.parents.separation is None else tuple(sorted(prepared.models.border))
    return MergePlan(
        models=tuple(network.label for network in prepared.models.sources),
        options=asked_for,
        candidates=sum(len(choices(each, len(prepared.models.weights))) for each in tried),
        groups=group_reports(job, None),
        border=border,
        coverage=coverage(prepared.models.weights[0], prepared.typing),
        certificates=prepared_merge.certificates,
        calibrated=job.source is not None,
        notes=prepared_merge.notes,
        forecast=expected,
        vocabulary=None if begun.vocabulary is None else begun.vocabulary.report(asked_for.merged_vocab),
    )


def _forecast(
    begun: PreparedMerge, models: Sequence[ModelSource], tasks: TaskSpec | None, vectors: str | Path | None
) -> Forecast:
    """What the merge is expected to come to."""
    read_data(begun)
    known = known_vectors(tasks, vectors, models, begun.parents, begun.job.options, labelled=False)
    return forecast_of(replace(begun.job, outputs=outputs_of(begun.job, known)))


def _settled(options: MergeOptions | None, settings: Mapping[str, Any]) -> MergeOptions:
    """The options, or those made of ``settings``; raises UsageError for both, or for words that they do not know."""
    if options is not None and settings:
        raise UsageError(f"options were given, so {next(iter(settings))}= has no effect: put it into the options")
    return (merge_options(settings) if options is None else options).settled()


def _possible(
    models: Sequence[ModelSource], given: MergeInputs, how: MergeOptions, *, labelled: bool | None
) -> tuple[MergeOptions, ...]:
    """The ways to merge that are to be tried. Raises UsageError where there is none.

    ``labelled`` is None where nobody says yet whether there are labels.
    """
    _require_own(models, given, labelled=bool(labelled))
    require_lists(given.vocab, len(models), how, based=given.base is not None)
    own = given.calibration_of is not None
    calibrated, based = given.calibrated, given.base is not None
    return possible_ways(how, len(models), calibrated=calibrated, own=own, labelled=labelled, based=based)


def _require_own(models: Sequence[ModelSource], given: MergeInputs, *, labelled: bool) -> None:
    """Raise UsageError for data of models' own that is not of all of them, or that labels cannot be of."""
    own = given.calibration_of
    if own is None:
        return
    if len(own) != len(models):
        raise UsageError(f"calibration data of models' own is for each of the {len(models)} models, found {len(own)}")
    if labelled and given.calibration is None:
        raise UsageError("--labels are of the samples of --calib: give that too, beside data of each model's own")


def _work(folder: str | Path | None, *, resume: bool) -> Path | None:
    """The work folder, if there is to be one."""
    if folder is None and resume:
        raise UsageError("resume goes on with what a work folder keeps: name the folder (--work-dir)")
    return None if folder is None else work_folder(absolute(folder))


def _errors(
    prepared_merge: PreparedMerge, product: MergedModel, evaluators: HeldOutEvaluators
) -> tuple[float | None, ...] | None:
    """The relative error of each parent's outputs, by what the parents answered where they were run before."""
    split, job = prepared_merge.split, prepared_merge.job
    held, known = (prepared_merge.source, job.outputs.answered) if split is None else (split.held, evaluators.answers)
    return errors(prepared_merge.parents, product, held, job.options.provider, known)


def _layers(
    selected: SelectedMatching, result: Merged, answers: Sequence[Answered], split: Split | None
) -> LayersReport | None:
    """What became of the linear layers; None without data."""
    data = selected.job.source if split is None else split.held
    if data is None:
        return None
    return layers_report(selected.job, selected.matched, result.weights, answers, data)


def _whole(parents: Parents, selected: SelectedMatching, result: Merged) -> MergedModel:
    """The merged network, with the heads behind it where they are apart."""
    job, matched = selected.job, selected.matched
    reads = readings(job.prepared.typing, sorted(job.prepared.models.border), matched.matchings)
    return joined(parents, job.network, result.weights, reads)
