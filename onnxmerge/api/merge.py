"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.job import Job, Progress, silent
from onnxmerge.api.matching import match, repair_plan, statistics_of
from onnxmerge.api.options import MergeOptions
from onnxmerge.api.outcome import HeadsReport, MergeReport, MergeResult, group_reports, peak_memory
from onnxmerge.api.partial import merged_partly, widened_readings
from onnxmerge.api.prepare import ModelSource, read_models, require, type_models
from onnxmerge.api.restoring import Merged, merged
from onnxmerge.api.separation import Parents, Product, inputs_of, joined, part, sample_for
from onnxmerge.api.summary import errors, footprints
from onnxmerge.calibration.held_out import split
from onnxmerge.calibration.sources import CalibrationSource, SourceSpec, open_source
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.errors import UsageError, ValidationError
from onnxmerge.heads.assembly import readings
from onnxmerge.matching.methods import MATCHERS, MatchResult
from onnxmerge.model.network import ModelSet
from onnxmerge.model.session import open_session, run
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import coverage


def merge(
    models: Sequence[ModelSource],
    *,
    calibration: SourceSpec | None = None,
    options: MergeOptions | None = None,
    image_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MergeResult:
    """Merge models of one structure into one.

    Args:
        models: Paths or models in memory, two or more. The first is the template for names, opset and metadata.
        calibration: Unlabelled data the models can run on: a path (.npy, .npz, a folder of these or of images,
            ``script.py:function``), arrays, or a reader. Optional for ``average`` and ``rebasin``.
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
    _require_consistent(chosen, len(models), calibrated=calibration is not None)
    clock = _Clock()
    with clock.stage("read"):
        parents = part(read_models(models), chosen)
        data = _open(parents.models, calibration, chosen, image_options or {})
        source, held = (None, None) if data is None else split(data, chosen.held_out)
    with clock.stage("type"):
        sample = _first_rows(parents.models, source) if source is not None else sample_for(parents)
        prepared = type_models(parents.models, sample, chosen.operators)
        paired = prepared.models
    job = Job(prepared, source, chosen, progress or silent)
    with clock.stage("certify"):
        certificates = tuple(_certificate(job, index) for index in range(len(paired.weights)))
    with clock.stage("calibrate"):
        plan = repair_plan(job)
        statistics = statistics_of(job, plan)
    with clock.stage("match"):
        matched = match(job, statistics)
    with clock.stage("merge"):
        reads = readings(prepared.typing, sorted(paired.border), matched.matchings)
        if chosen.share < 1:
            partial = merged_partly(job, matched, plan, statistics)
            trunk, result = partial.network, partial.merged
            reads = widened_readings(reads, job, partial.budgets)
        else:
            trunk, result = paired.template, merged(job, matched, plan, statistics)
        product = joined(parents, trunk, result.weights, reads)
    with clock.stage("check"):
        _require_finite(parents, product, prepared.trace.sample, chosen.provider)
    with clock.stage("compare"):
        costs = footprints(parents, prepared, product)
        found = errors(parents, product, held, chosen.provider)
    report = _report(job, certificates, matched, result, product, clock.seconds)
    report = replace(report, footprints=costs, reconstruction=found)
    return MergeResult(product.network, product.weights, report)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _require_consistent(options: MergeOptions, models: int, *, calibrated: bool) -> None:
    """Raise UsageError for options that contradict each other or ask for data that was not given."""
    if models < 2:
        raise UsageError(f"merging takes two models or more, found {models}")
    if options.method not in MATCHERS:
        raise UsageError(f"there is no method {options.method!r}; choose one of {', '.join(MATCHERS)}")
    method = MATCHERS[options.method]
    if method.needs_activations and not calibrated:
        raise UsageError(f"method {options.method} compares activations: give calibration data (--calib)")
    if not 0 <= options.share <= 1:
        raise UsageError(f"--share {options.share:g}: expected a fraction from 0 to 1")
    if options.share < 1 and (method.zips or options.refine != "none"):
        what = f"method {options.method} zips" if method.zips else f"--refine {options.refine} solves for merged ones"
        raise UsageError(f"--share {options.share:g} keeps matched units apart, one by one; {what}")
    if options.refine == "none":
        return
    if not calibrated:
        raise UsageError(f"--refine {options.refine} measures activations: give calibration data (--calib)")
    if method.zips:
        raise UsageError(f"--refine {options.refine} takes matched units, one to one; method {options.method} zips")
    if options.repair not in ("auto", "none"):
        raise UsageError(f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out")


def _open(
    models: ModelSet, calibration: SourceSpec | None, options: MergeOptions, image_options: Mapping[str, Any]
) -> CalibrationSource | None:
    if calibration is None:
        return None
    specs = input_specs(models.template.model)
    return open_source(
        calibration, specs, samples=options.samples, batch_size=options.batch_size, **dict(image_options)
    )


def _first_rows(models: ModelSet, source: CalibrationSource) -> dict[str, NDArray[Any]]:
    """A sample to trace: two rows of the first feed are enough for shapes, where the batch is free."""
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


def _require_finite(parents: Parents, product: Product, sample: Mapping[str, NDArray[Any]], provider: str) -> None:
    """The merged model must run on the traced sample, and give finite values wherever the first parent does.

    Where heads are apart, wherever each head's own parent does.
    """
    after = run(open_session(product.model, weights=product.weights, provider=provider), sample)
    apart = parents.separation is not None
    for network, names in zip(parents.networks if apart else parents.networks[:1], product.outputs, strict=False):
        before = run(open_session(network.model, provider=provider), inputs_of(network, sample))
        for name, own in zip(names, before.values(), strict=True):
            if own.dtype.kind == "f" and np.isfinite(own).all() and not np.isfinite(after[name]).all():
                raise ValidationError(
                    f"{network.label}: output {name!r} of the merged model is not finite where its parents' is; "
                    "try --repair none, or another method"
                )


def _report(
    job: Job,
    certificates: tuple[Certificate, ...],
    matched: MatchResult,
    result: Merged,
    product: Product,
    seconds: Mapping[str, float],
) -> MergeReport:
    options, models, source = job.options, job.prepared.models, job.source
    method = MATCHERS[options.method]
    apart = product.separation
    notes = [
        *(() if apart is None else apart.notes),
        *result.notes,
        *(note for search in matched.searches for note in search.notes),
    ]
    return MergeReport(
        models=tuple(network.label for network in models.sources),
        sha256=tuple(network.sha256 for network in models.sources),
        method=options.method,
        alpha=options.alpha if method.alpha is None else method.alpha,
        objective=options.objective,
        zip=(options.zip_a, options.zip_b) if method.zips else None,
        seed=options.seed,
        repair=result.repaired,
        batches=None if source is None else source.batches,
        calibration=None if source is None else source.digest(),
        heads=None
        if apart is None
        else HeadsReport(tuple(sorted(apart.trunks.border)), options.until, product.outputs),
        groups=group_reports(job.prepared, matched),
        coverage=coverage(models.weights[0], job.prepared.typing),
        certificates=certificates,
        sweeps=tuple(search.sweeps for search in matched.searches),
        converged=all(search.converged for search in matched.searches),
        notes=tuple(dict.fromkeys(notes)),
        seconds=dict(seconds),
        peak_memory=peak_memory(),
        held_out=options.held_out,
        share=options.share,
    )
