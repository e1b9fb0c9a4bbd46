"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.answering import answered
from onnxmerge.api.choosing import Chosen, chosen_by, matched_by
from onnxmerge.api.consistency import decidable, require_consistent
from onnxmerge.api.effort import WITHOUT_DATA, EffortReport, best_way, flags, ways
from onnxmerge.api.examining import Questions, questions
from onnxmerge.api.files import sources
from onnxmerge.api.job import Job, Progress, silent
from onnxmerge.api.judging import PLENTY, divide, held_out, judge_on
from onnxmerge.api.known_inputs import Completed, open_with
from onnxmerge.api.matching import evidence_of
from onnxmerge.api.meanings import class_vectors, output_names, outputs_of
from onnxmerge.api.options import MergeOptions
from onnxmerge.api.outcome import MergePlan, MergeResult, group_reports
from onnxmerge.api.prepare import Base, ModelSource, SampleInput, read_models, require, type_models
from onnxmerge.api.provenance import canonical_recipe
from onnxmerge.api.repairing import choose_repair
from onnxmerge.api.reporting import report_of
from onnxmerge.api.resizing import resize
from onnxmerge.api.restoring import Merged, merged
from onnxmerge.api.search import choices
from onnxmerge.api.separation import Parents, Product, inputs_of, joined, part, part_with_base, sample_for
from onnxmerge.api.summary import errors, footprints
from onnxmerge.api.tasks import TaskSpec
from onnxmerge.calibration.enough import too_few
from onnxmerge.calibration.recut import Recut
from onnxmerge.calibration.sources import CalibrationSource, OpenedSource, SourceSpec
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.statistics import GramRequest
from onnxmerge.calibration.subset import Split, holds, rows
from onnxmerge.errors import InputError, UsageError, ValidationError
from onnxmerge.evaluation.labels import LabelSpec
from onnxmerge.heads.assembly import readings
from onnxmerge.matching.overrides import overrides
from onnxmerge.merging.answer.meaning import asked_meanings
from onnxmerge.merging.answer.outputs import ClassVectors
from onnxmerge.merging.reconstruction import NothingToCompareError
from onnxmerge.model.interface import batch_inside, declare_ranks, with_batch
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.precision import halved
from onnxmerge.model.session import open_session, run
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import coverage


def merge(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    base: ModelSource | None = None,
    labels: LabelSpec | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MergeResult:
    """Merge models of one structure into one, or models of one trunk into one with a head for each.

    Args:
        models: Paths or models in memory, two or more. The first is the template for names, opset and metadata.
        calibration: Unlabelled data the models can run on: a path (.npy, .npz, a folder of these or of images,
            ``script.py:function``), arrays, or a reader. Optional for methods that compare no activations.
        base: The model that all others were fine-tuned from: for the methods that add task vectors to it.
        labels: Labels of the calibration samples (see `evaluate`; -1: none), by which a search is decided instead: by
            the mean over tasks of accuracies, or scaled scores of regressions (``api.examining``).
        tasks: What labels mean, and which output answers: see `evaluate`. By default classes of the first output.
            With class vectors in them, also what the ensemble's answer is read by (``answer="ensemble"``).
        vectors: File of class vectors that outputs are compared with: see `evaluate`.
        options: How to merge.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        inputs: Shape or value of inputs of the first model, by name: of the traced sample where there is no data; with
            data, the values (one row each) of inputs that it lacks.
        progress: Makes progress displays; silent by default.
        **settings: The fields of ``options`` one by one, instead of it (``method="rebasin"``, ``alpha=0.3``).

    Raises:
        InputError: a model or the calibration data cannot be used. StructureError: the models differ in structure.
        UsageError: the options contradict each other.
        ValidationError: a certificate failed, or the merged model gives values that are not finite.

    """
    given = _Given(calibration, base, image_options or {}, inputs or {})
    asked_how = (MergeOptions(**settings) if options is None else options).settled()
    every = _ways(models, given, asked_how, labelled=labels is not None)
    begun = _begin(models, given, every[0], progress or silent)
    parents, clock = begun.parents, begun.clock
    asked = questions(labels, tasks, vectors, data=calibration, models=models, parents=parents)
    known = _known_vectors(tasks, vectors, models, parents, every[0], labelled=labels is not None)
    begun = replace(begun, job=replace(begun.job, outputs=outputs_of(begun.job, known)))
    with clock.stage("try"):
        how, tried = _best_way(begun, asked_how, every, asked)
    asked = asked if tried is None or decidable(how) else None
    tried = None if tried is None else replace(tried, labelled=asked is not None)
    begun = _divided(begun, how, labelled=asked is not None)
    job = begun.job
    with clock.stage("calibrate"):
        trials = choices(how, len(job.prepared.models.weights))
        evidence = evidence_of(job, [replace(how, method=method, alpha=alpha) for method, alpha in trials])
    with clock.stage("match"):
        judges = chosen_by(begun.split, asked)
        chosen = matched_by(job, evidence, judges)
    with clock.stage("merge"):
        repair = choose_repair(chosen.job, chosen.matched, chosen.evidence, judges)
        result = repair.merged or merged(chosen.job, chosen.matched, chosen.evidence, repair.step)
        result, answers = answered(chosen.job, result, apart=parents.separation is not None)
        product = _product(parents, chosen, result)
        if how.output_type == "float16":
            product = replace(product, network=halved(product.network, product.weights), weights={})
    with clock.stage("check"):
        _require_finite(parents, product, job.prepared.trace.sample, how.provider)
    with clock.stage("compare"):
        held = begun.source if begun.split is None else begun.split.held
        found = errors(parents, product, held, how.provider, judges.reference)
        costs = footprints(parents, job.prepared, product)
    report = report_of(chosen, begun.certificates, result, repair, product, seconds=clock.seconds)
    notes = (*begun.notes, *report.notes, *_of_data(begun))
    notes = tuple(dict.fromkeys(notes))
    recipe = canonical_recipe(
        how,
        models=report.sha256,
        base=None if report.base is None else report.base[1],
        calibration=None if begun.source is None else begun.source.digest(),
        inputs=given.inputs,
        asked=asked,
        vectors=known,
    )
    report = replace(report, footprints=costs, reconstruction=found, held_out=begun.split is not None, notes=notes)
    report = replace(report, recipe=recipe, answers=answers, effort=tried)
    read = sources("one of the models", *models, base, model=True)
    read += sources("the data", calibration, labels, tasks, vectors, how.operators)
    return MergeResult(product.network, product.weights, report, read)


def plan(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    base: ModelSource | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    **settings: Any,
) -> MergePlan:
    """What ``merge`` would do, up to where it would begin to measure: models paired up, typed and certified.

    Takes the arguments of ``merge`` and raises what it raises so far.
    """
    given = _Given(calibration, base, image_options or {}, inputs or {})
    every = _ways(models, given, (MergeOptions(**settings) if options is None else options).settled(), labelled=False)
    how = every[0]
    begun = _divided(_begin(models, given, how, silent), how, labelled=False)
    job, prepared = begun.job, begun.job.prepared
    overrides(how.groups, prepared.typing)  # raises for a rule that names no group
    border = None if begun.parents.separation is None else tuple(sorted(prepared.models.border))
    return MergePlan(
        models=tuple(network.label for network in prepared.models.sources),
        options=how,
        candidates=sum(len(choices(each, len(prepared.models.weights))) for each in every),
        groups=group_reports(job, None),
        border=border,
        coverage=coverage(prepared.models.weights[0], prepared.typing),
        certificates=begun.certificates,
        calibrated=job.source is not None,
        notes=begun.notes,
    )


@dataclass(frozen=True, slots=True)
class _Clock:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What a merge is given beside the models and the options."""

    calibration: SourceSpec | None
    base: ModelSource | None
    image_options: Mapping[str, Any]
    inputs: Mapping[str, SampleInput]


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A merge whose models are read, paired up, typed and certified; ``source`` is ``data`` as the models take it."""

    job: Job
    parents: Parents
    data: OpenedSource | None
    source: CalibrationSource | None
    split: Split | None
    certificates: tuple[Certificate, ...]
    clock: _Clock
    notes: tuple[str, ...]


def _ways(
    models: Sequence[ModelSource], given: _Given, how: MergeOptions, *, labelled: bool
) -> tuple[MergeOptions, ...]:
    """The ways to merge that are to be tried: of those of an effort, all that can be done. Raises UsageError."""
    calibrated, based = given.calibration is not None, given.base is not None
    found, errors_found = [], []
    every = ways(how, len(models), calibrated=calibrated)
    for each in every:
        decides = labelled and (how.effort is None or decidable(each))
        try:
            require_consistent(each, len(models), calibrated=calibrated, labelled=decides, based=based)
            found.append(each)
        except UsageError as error:
            errors_found.append(error)
    if not found:
        raise errors_found[0]
    return tuple(found)


def _best_way(
    begun: _Begun, asked_how: MergeOptions, every: Sequence[MergeOptions], asked: Questions | None
) -> tuple[MergeOptions, EffortReport | None]:
    """The way to merge that is taken, and how it was found; None where the user said which."""
    if asked_how.effort is None:
        return every[0], None
    told = EffortReport(asked_how.effort, flags(every[0]))
    if begun.source is None:
        return every[0], replace(told, notes=(WITHOUT_DATA,))
    if len(every) == 1:
        return every[0], told
    if not holds(begun.source, PLENTY):
        return every[0], replace(
            told, notes=(f"with fewer than {PLENTY} samples, only {' '.join(flags(every[0]))} was tried",)
        )
    split = held_out(begun.source, begun.job.prepared.models)
    job = replace(begun.job, source=split.fit, options=asked_how)
    try:
        judge = judge_on(job, split.held, None if asked is None else asked.held_out(split))
    except NothingToCompareError as error:
        return every[0], replace(told, notes=(f"one way was tried: {error}",))
    return best_way(job, every, split, judge)


def _divided(begun: _Begun, how: MergeOptions, *, labelled: bool) -> _Begun:
    """The same to be merged in one way, with data held out for what that way has to choose."""
    job, source = begun.job, begun.source
    start = job.base is not None
    split = None if source is None or start else divide(source, job.prepared.models, how, labelled=labelled)
    return replace(begun, split=split, job=replace(job, options=how, source=source if split is None else split.fit))


def _begin(models: Sequence[ModelSource], given: _Given, how: MergeOptions, progress: Progress) -> _Begun:
    base = given.base
    clock = _Clock()
    with clock.stage("read"):
        networks = read_models([*models, *([] if base is None else [base])], given.inputs)
        parents, start = _parted(networks, base, how)
        data, completed = _open(parents.models, given, how)
        source: CalibrationSource | None = completed or data
        size = None if source is None else _only_batch(parents, source, how.provider)
        if source is not None and size is not None:
            parents, start = _parted([with_batch(network, size) for network in networks], base, how)
            source = Recut(source, size)
    with clock.stage("type"):
        sample = _first_rows(parents.models, source) if source is not None else sample_for(parents, given.inputs)
        prepared = type_models(parents.models, sample, how.operators)
    job = Job(prepared, source, how, progress, start)
    with clock.stage("certify"):
        certificates = tuple(_certificate(job, index) for index in range(len(prepared.models.weights)))
        job = replace(job, resized=resize(prepared, how))
    notes = (
        *(note for network in networks for note in network.notes),
        *(() if size is None else (_fixed_inside(parents, size),)),
    )
    return _Begun(job, parents, data, source, None, certificates, clock, notes)


def _parted(networks: Sequence[Network], base: ModelSource | None, how: MergeOptions) -> tuple[Parents, Base | None]:
    """The models paired up, and the base, which is the last of the networks where there is one."""
    return (part(networks, how), None) if base is None else part_with_base(networks)


def _only_batch(parents: Parents, source: CalibrationSource, provider: str) -> int | None:
    """The batch that the models are fixed to inside while they declare a free one; None where it is free.

    Raises InputError where heads are fixed to different ones.
    """
    specs = input_specs(parents.models.template.model)
    feed = next(iter(source), None)
    if feed is None or not is_batched(specs) or fixed_batch(specs) is not None:
        return None
    asked = (parents.models.template,) if parents.separation is None else parents.networks
    found = {network.label: batch_inside(network, inputs_of(network, feed), provider) for network in asked}
    sizes = {label: size for label, size in found.items() if size is not None}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{label} on {size}" for label, size in sizes.items())
        raise InputError(f"the models run on batches of different sizes only: {told}; export them with a free batch")
    return next(iter(sizes.values()), None)


def _fixed_inside(parents: Parents, size: int) -> str:
    samples = "sample" if size == 1 else "samples"
    return (
        f"{parents.networks[0].label}: declares a free batch, but runs on {size} {samples} at a time only: the data is "
        "fed so, and the merged model declares it"
    )


def _open(models: ModelSet, given: _Given, options: MergeOptions) -> tuple[OpenedSource | None, Completed | None]:
    """The calibration data, and what it is with the inputs that it lacks."""
    if given.calibration is None:
        return None, None
    return open_with(
        given.calibration,
        input_specs(models.template.model),
        given.inputs,
        samples=options.samples,
        batch_size=options.batch_size,
        **dict(given.image_options),
    )


def _first_rows(models: ModelSet, source: CalibrationSource) -> dict[str, NDArray[Any]]:
    """A sample to trace: two rows of the first feed are enough for shapes, where the batch is free."""
    feed = next(iter(source), {})
    specs = input_specs(models.template.model)
    if is_batched(specs) and fixed_batch(specs) is None:
        return {name: array[:2] for name, array in feed.items()}
    return dict(feed)


def _of_data(begun: _Begun) -> list[str]:
    """What the user should know about the calibration data: where it says little, or there is little of it."""
    if begun.data is None:
        return []
    notes, prepared = begun.data.notes(), begun.job.prepared
    requests = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()]
    few = too_few(prepared.typing, requests, rows(prepared.trace.sample), begun.data.findings().rows)
    return notes if few is None or begun.job.base is not None else [*notes, few]


def _certificate(job: Job, index: int) -> Certificate:
    found = job.prepared.certify(index, seed=job.options.seed, provider=job.options.provider)
    require(found, job.prepared.models.sources[index].label)
    return found


def _known_vectors(
    tasks: TaskSpec | None,
    vectors: str | Path | None,
    models: Sequence[ModelSource],
    parents: Parents,
    how: MergeOptions,
    *,
    labelled: bool,
) -> ClassVectors:
    """The class vectors for the ensemble's answer. Raises UsageError for tasks or vectors that nothing would use."""
    if how.answer == "ensemble":
        asked_meanings(how.outputs, output_names(parents.models.template.graph))  # raises now what it would later
        return class_vectors(tasks, vectors, models, parents)
    if not labelled and (tasks is not None or vectors is not None):
        raise UsageError(
            "tasks and class vectors say what labels mean: give the labels too (--labels), or --answer ensemble, "
            "which is read by class vectors"
        )
    return {}


def _product(parents: Parents, chosen: Chosen, result: Merged) -> Product:
    """The merged network, with the heads behind it where they are apart."""
    job, matched = chosen.job, chosen.matched
    reads = readings(job.prepared.typing, sorted(job.prepared.models.border), matched.matchings)
    return joined(parents, job.network, result.weights, reads)


def _require_finite(parents: Parents, product: Product, sample: Mapping[str, NDArray[Any]], provider: str) -> None:
    """The merged model must run on the traced sample, and give finite values wherever the first parent does.

    Where heads are apart, wherever each head's own parent does. Ranks that no model declares are noted on the way.
    """
    after = run(open_session(product.model, weights=product.weights, provider=provider), sample)
    declare_ranks(product.model.graph, {**sample, **after})
    apart = parents.separation is not None
    for network, names in zip(parents.networks if apart else parents.networks[:1], product.outputs, strict=False):
        before = run(open_session(network.model, provider=provider), inputs_of(network, sample))
        for place, (name, own) in enumerate(zip(names, before.values(), strict=True)):
            if own.dtype.kind == "f" and np.isfinite(own).all() and not np.isfinite(after[name]).all():
                for other in () if apart else parents.networks[1:]:
                    theirs = run(open_session(other.model, provider=provider), inputs_of(other, sample))
                    if not np.isfinite(list(theirs.values())[place]).all():
                        raise ValidationError(
                            f"{other.label}: has infinities of its own: its output for {name!r} is not finite where "
                            f"that of {network.label} is, and so is the merged model's; leave this model out"
                        )
                raise ValidationError(
                    f"{network.label}: output {name!r} of the merged model is not finite where its parents' is; "
                    "try --repair none, or another method"
                )
