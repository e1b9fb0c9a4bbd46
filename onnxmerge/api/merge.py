"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.consistency import require_consistent
from onnxmerge.api.job import Job, Progress, silent
from onnxmerge.api.judging import divide, judge_on
from onnxmerge.api.matching import evidence_of, match
from onnxmerge.api.methods import METHODS, alpha_of, settings_of
from onnxmerge.api.options import MergeOptions
from onnxmerge.api.outcome import MergeReport, MergeResult, group_reports, peak_memory
from onnxmerge.api.prepare import ModelSource, Prepared, apart, load, require, type_models
from onnxmerge.api.repairing import ChosenRepair, choose_repair
from onnxmerge.api.restoring import Merged, merged
from onnxmerge.api.rotating import Turned, turn
from onnxmerge.api.search import SearchReport, choices, search
from onnxmerge.calibration.sources import CalibrationSource, SourceSpec, open_source
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.errors import ValidationError
from onnxmerge.evaluation.class_numbers import LabelSource, read_labels
from onnxmerge.matching.methods import MatchResult, ZipMethod
from onnxmerge.model.network import ModelSet
from onnxmerge.model.session import open_session, run
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import coverage


def merge(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    base: ModelSource | None = None,
    labels: LabelSource | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MergeResult:
    """Merge models of one structure into one.

    Args:
        models: Paths or models in memory, two or more. The first is the template for names, opset and metadata.
        calibration: Unlabelled data the models can run on: a path (.npy, .npz, a folder of these or of images,
            ``script.py:function``), arrays, or a reader. Optional for methods that compare no activations.
        base: The model that all others were fine-tuned from: for the methods that add task vectors to it.
        labels: The class of each calibration sample (an array, .npy or .npz), by which a search for method or alpha
            is decided instead; the network's first output must be [samples, classes].
        options: How to merge.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        progress: Makes progress displays; silent by default.
        **settings: The fields of ``options`` one by one, instead of it (``method="rebasin"``, ``alpha=0.3``).

    Raises:
        InputError: a model or the calibration data cannot be used. StructureError: the models differ in structure.
        UsageError: the options contradict each other.
        ValidationError: a certificate failed, or the merged model gives values that are not finite.

    """
    chosen = MergeOptions(**settings) if options is None else options
    given = {"calibrated": calibration is not None, "labelled": labels is not None, "based": base is not None}
    require_consistent(chosen, len(models), **given)
    clock = _Clock()
    with clock.stage("read"):
        paired = load([*models, *([] if base is None else [base])])
        paired, start = (paired, None) if base is None else apart(paired)
        source = _open(paired, calibration, chosen, image_options or {})
    with clock.stage("type"):
        prepared = type_models(paired, _first_rows(paired, source), chosen.operators)
    split = None if source is None or start else divide(source, paired, chosen, labelled=labels is not None)
    known = None if split is None or labels is None else read_labels(labels, split.samples)[split.border :]
    job = Job(prepared, source if split is None else split.fit, chosen, progress or silent, start)
    with clock.stage("certify"):
        certificates = tuple(_certificate(job, index) for index in range(len(paired.weights)))
    with clock.stage("calibrate"):
        trials = [replace(chosen, method=method, alpha=alpha) for method, alpha in choices(chosen)]
        evidence = evidence_of(job, trials)
        judge = None if split is None else judge_on(job, split.held, known)
    searched = None
    if chosen.searches and judge is not None:
        with clock.stage("search"):
            found = search(job, evidence, judge)
        job, matched, searched = found.job, found.matched, found.report
    else:
        with clock.stage("match"):
            matched = match(job, evidence)
    turned = Turned(job, evidence, ())
    if chosen.rotate:
        with clock.stage("rotate"):
            turned = turn(job, matched, evidence)
            job, evidence = turned.job, turned.evidence
            judge = None if split is None else judge_on(job, split.held, known)
    with clock.stage("merge"):
        repaired = choose_repair(job, matched, evidence, judge if chosen.refine == "none" else None)
        result = merged(job, matched, evidence, repaired.step)
    with clock.stage("check"):
        _require_finite(prepared, result.weights, chosen.provider)
    report = _report(job, certificates, matched, result, (searched, turned.spaces, repaired), clock.seconds)
    return MergeResult(paired.template, result.weights, report)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _open(
    models: ModelSet, calibration: SourceSpec | None, options: MergeOptions, image_options: Mapping[str, Any]
) -> CalibrationSource | None:
    if calibration is None:
        return None
    specs = input_specs(models.template.model)
    return open_source(
        calibration, specs, samples=options.samples, batch_size=options.batch_size, **dict(image_options)
    )


def _first_rows(models: ModelSet, source: CalibrationSource | None) -> dict[str, NDArray[Any]] | None:
    """A sample to trace: two rows of the first feed are enough for shapes, where the batch is free."""
    if source is None:
        return None
    source.rewind()
    feed = source.get_next() or {}
    specs = input_specs(models.template.model)
    if is_batched(specs) and fixed_batch(specs) is None:
        return {name: array[:2] for name, array in feed.items()}
    return dict(feed)


def _certificate(job: Job, index: int) -> Certificate:
    found = job.prepared.certify(index, seed=job.options.seed, provider=job.options.provider)
    require(found, job.prepared.models.sources[index].label)
    return found


def _require_finite(prepared: Prepared, weights: Mapping[str, NDArray[Any]], provider: str) -> None:
    """The merged model must run on the traced sample, and give finite values wherever the first parent does."""
    template, sample = prepared.models.template, prepared.trace.sample
    first = run(open_session(template.model, provider=provider), sample)
    after = run(open_session(template.model, weights=weights, provider=provider), sample)
    for name, before in first.items():
        if before.dtype.kind == "f" and np.isfinite(before).all() and not np.isfinite(after[name]).all():
            raise ValidationError(
                f"{template.label}: output {name!r} of the merged model is not finite where its parents' is; "
                "try --repair none, or another method"
            )


def _report(
    job: Job,
    certificates: tuple[Certificate, ...],
    matched: MatchResult,
    result: Merged,
    chosen: tuple[SearchReport | None, tuple[str, ...], ChosenRepair],
    seconds: Mapping[str, float],
) -> MergeReport:
    options, models, source = job.options, job.prepared.models, job.source
    zips, settings = isinstance(METHODS[options.method], ZipMethod), settings_of(options)
    searched, turned, repaired = chosen
    notes = [
        *(searched.notes if searched else ()),
        *result.notes,
        *(note for search in matched.searches for note in search.notes),
    ]
    return MergeReport(
        models=tuple(network.label for network in models.sources),
        sha256=tuple(network.sha256 for network in models.sources),
        weights=tuple(job.shares),
        method=options.method,
        alpha=alpha_of(options),
        objective=options.objective,
        zip=(options.zip_a, options.zip_b) if zips else None,
        base=None if job.base is None else (job.base.network.label, job.base.network.sha256),
        scale=None if settings is None else settings.scale,
        density=None if settings is None else settings.density,
        search=searched,
        rotated=turned,
        repairs=repaired.tried,
        seed=options.seed,
        repair=result.repaired,
        batches=None if source is None else source.batches,
        calibration=None if source is None else source.digest(),
        groups=group_reports(job.prepared, matched),
        coverage=coverage(models.weights[0], job.prepared.typing),
        certificates=certificates,
        sweeps=tuple(search.sweeps for search in matched.searches),
        converged=all(search.converged for search in matched.searches),
        notes=tuple(dict.fromkeys(notes)),
        seconds=dict(seconds),
        peak_memory=peak_memory(),
    )
