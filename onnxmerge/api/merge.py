"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.prepare import ModelSource, Prepared, load, require, type_models
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import BATCH_SIZE, CalibrationSource, SourceSpec, open_source
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.statistics import GramRequest, MomentRequest, Statistics, gather
from onnxmerge.calibration.subset import FirstSamples
from onnxmerge.errors import UsageError, ValidationError
from onnxmerge.matching.methods import MATCHERS, MatchOptions, MatchProblem, MatchResult
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.folding import balanced, unfolded
from onnxmerge.merging.least_squares import OutputScale, refine
from onnxmerge.merging.repair import RepairPlan, plan_repair, repair, targets
from onnxmerge.merging.repair_choice import RepairChoice, RepairStep, repair_step
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session, run
from onnxmerge.model.write import save_network
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage, coverage
from onnxmerge.version import __version__

REPAIR_SAMPLES = 2048
"""Calibration samples that repair measures the merged network on: a mean and a deviation need no more."""
Refinement = Literal["none", "ls"]
Progress = Callable[[str], AbstractContextManager[Report]]
"""Makes a progress display for one titled piece of work."""


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge.

    ``alpha`` is the weight of weight-space similarity (mudsc-align, mudsc-zip). ``objective`` is the weight-space
    similarity of rebasin: ``correlation``, or ``inner`` for the inner product of the original paper. ``repair``
    "auto" repairs output layers, and hidden ones where BatchNorm was folded away.
    ``refine`` "ls" solves every linear layer anew by least squares after matching, in place of any repair;
    ``output_scale`` says whether it takes outputs as they are or as directions (see `least_squares.refine`).
    ``samples`` bounds the calibration data (None: all of it). ``zip_a`` and ``zip_b`` are a and b of the zip methods:
    what the similarity of merged units is multiplied by, and the share of its merges that a model may use up inside
    itself.
    """

    method: str = "mudsc-align"
    alpha: float = 0.5
    objective: Literal["correlation", "inner"] = "correlation"
    repair: RepairChoice = "auto"
    refine: Refinement = "none"
    output_scale: OutputScale = "auto"
    seed: int = 0
    samples: int | None = None
    zip_a: float = 0.5
    zip_b: float = 1.0
    batch_size: int = BATCH_SIZE
    provider: str = "auto"
    operators: Path | None = None


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group, and the mean similarity of its matched units before (identity) and after (None: unknown)."""

    id: str
    size: int
    varies_with: tuple[str, ...]
    similarity_before: float | None
    similarity_after: float | None


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What happened, for people and machines.

    ``zip`` is (a, b) of a zip method, ``seconds`` is by stage, ``peak_memory`` in bytes (None: unknown).
    """

    models: tuple[str, ...]
    sha256: tuple[str, ...]
    method: str
    alpha: float | None
    objective: str
    zip: tuple[float, float] | None
    seed: int
    repair: str
    batches: int | None
    calibration: str | None
    groups: tuple[GroupReport, ...]
    coverage: Coverage
    certificates: tuple[Certificate, ...]
    sweeps: tuple[int, ...]
    converged: bool
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    peak_memory: int | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {**asdict(self), "version": __version__}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged model, not yet written: weights are computed when they are read."""

    template: Network
    weights: Mapping[str, NDArray[Any]]
    report: MergeReport

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the merged model, whole or not at all; the first model's names, opset and metadata are kept."""
        target = Path(path).absolute()
        save_network(self.template.model, self.weights, target, provenance(self.report))
        return target


def provenance(report: MergeReport) -> dict[str, str]:
    """What goes into the merged file's ``metadata_props``: everything that determines its bytes."""
    found = {
        "onnxmerge.version": __version__,
        "onnxmerge.sources": " ".join(report.sha256),
        "onnxmerge.method": report.method,
        "onnxmerge.objective": report.objective,
        "onnxmerge.seed": str(report.seed),
        "onnxmerge.repair": report.repair,
    }
    if report.alpha is not None:
        found["onnxmerge.alpha"] = repr(report.alpha)
    if report.zip is not None:
        found["onnxmerge.zip"] = " ".join(map(repr, report.zip))
    if report.calibration is not None:
        found["onnxmerge.calibration"] = report.calibration
    return found


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
    return _Merge(models, calibration, chosen, dict(image_options or {}), progress or _silent).run()


@contextmanager
def _silent(_title: str) -> Iterator[Report]:
    yield lambda _done, _total: None


@dataclass(slots=True)
class _Merge:
    """One merge under way. Stages run in order; what each hands on is an argument of the next."""

    sources: Sequence[ModelSource]
    calibration: SourceSpec | None
    options: MergeOptions
    image_options: dict[str, Any]
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> MergeResult:
        options = self.options
        if len(self.sources) < 2:
            raise UsageError(f"merging takes two models or more, found {len(self.sources)}")
        if options.method not in MATCHERS:
            raise UsageError(f"there is no method {options.method!r}; choose one of {', '.join(MATCHERS)}")
        if MATCHERS[options.method].needs_activations and self.calibration is None:
            raise UsageError(f"method {options.method} compares activations: give calibration data (--calib)")
        self._require_refinable()
        with self._stage("read"):
            models = load(self.sources)
            source = self._open(models)
        with self._stage("type"):
            prepared = type_models(models, _first_rows(models, source), options.operators)
        with self._stage("certify"):
            certificates = tuple(self._certificate(prepared, index) for index in range(len(models.weights)))
        plan = self._repair_plan(prepared, source)
        with self._stage("calibrate"):
            statistics = self._statistics(prepared, plan, source)
        with self._stage("match"):
            matched = self._match(prepared, statistics)
        with self._stage("merge"):
            weights, repaired = self._merged(prepared, matched, plan, statistics, source)
        with self._stage("check"):
            _require_finite(prepared, weights, options.provider)
        report = self._report(prepared, certificates, matched, repaired, source)
        return MergeResult(models.template, weights, report)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def _require_refinable(self) -> None:
        options = self.options
        if options.refine == "none":
            return
        if self.calibration is None:
            raise UsageError(f"--refine {options.refine} measures activations: give calibration data (--calib)")
        if MATCHERS[options.method].zips:
            raise UsageError(f"--refine {options.refine} takes matched units, one to one; method {options.method} zips")
        if options.repair not in ("auto", "none"):
            raise UsageError(
                f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out"
            )

    def _open(self, models: ModelSet) -> CalibrationSource | None:
        if self.calibration is None:
            return None
        specs = input_specs(models.template.model)
        options = self.options
        return open_source(
            self.calibration, specs, samples=options.samples, batch_size=options.batch_size, **self.image_options
        )

    def _certificate(self, prepared: Prepared, index: int) -> Certificate:
        found = prepared.certify(index, seed=self.options.seed, provider=self.options.provider)
        require(found, prepared.models.sources[index].label)
        return found

    def _repair_plan(self, prepared: Prepared, source: CalibrationSource | None) -> RepairPlan | None:
        """The layers to repair; None where nothing is."""
        choice, graph = self.options.repair, prepared.models.template.graph
        if self.options.refine != "none":
            return None
        step = repair_step(graph, prepared.typing, choice)
        if step is None:
            return None
        if source is None:
            if choice != "auto":
                raise UsageError(f"--repair {choice} measures activations: give calibration data (--calib)")
            self.notes.append("statistics were averaged, not repaired: there is no calibration data")
            return None
        return plan_repair(graph, prepared.typing, step.which)

    def _statistics(
        self, prepared: Prepared, plan: RepairPlan | None, source: CalibrationSource | None
    ) -> Statistics | None:
        method = MATCHERS[self.options.method]
        wanted = method.needs_activations
        grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if wanted else []
        requests: list[GramRequest | MomentRequest] = [*grams, *(plan.requests if plan is not None else ())]
        if source is None or not requests:
            return None
        models = prepared.models
        every = range(len(models.weights))
        pairs = [(one, other) for other in every for one in every[: other + 1]] if wanted and method.zips else None
        with self.progress("calibrating") as report:
            return gather(
                models.template,
                models.weights,
                prepared.typing,
                requests,
                source,
                provider=self.options.provider,
                progress=report,
                pairs=pairs,
            )

    def _match(self, prepared: Prepared, statistics: Statistics | None) -> MatchResult:
        options, weights = self.options, self._comparable(prepared).weights
        grams = statistics.gram if statistics is not None else {}
        method, rule = MATCHERS[options.method], ZipRule(options.zip_a, options.zip_b)
        if method.zips:
            together = {space: gram.correlations(len(weights)) for space, gram in grams.items() if gram.cross}
            problem = MatchProblem(prepared.typing, weights, together=together)
        else:
            activations = [
                {space: gram.correlation(0, other) for space, gram in grams.items()} for other in range(1, len(weights))
            ]
            problem = MatchProblem(prepared.typing, weights, activations)
        settings = MatchOptions(alpha=options.alpha, objective=options.objective, seed=options.seed, zip=rule)
        return method(problem, settings)

    def _comparable(self, prepared: Prepared) -> ModelSet:
        """The models as matching sees them: without the scales of folded BatchNorm where repair sets them anew."""
        graph = prepared.models.template.graph
        step = repair_step(graph, prepared.typing, self.options.repair)
        if step is None or step.which != "all" or self.calibration is None:
            return prepared.models
        return unfolded(prepared.models, plan_repair(graph, prepared.typing, "free").layers)

    def _merged(
        self,
        prepared: Prepared,
        matched: MatchResult,
        plan: RepairPlan | None,
        statistics: Statistics | None,
        source: CalibrationSource | None,
    ) -> tuple[Mapping[str, NDArray[Any]], str]:
        """The merged weights, and what was done to their statistics."""
        template, provider = prepared.models.template, self.options.provider
        weights: Mapping[str, NDArray[Any]] = combine(prepared.models, prepared.typing, matched.matchings)
        if source is None:
            return weights, "none"
        if self.options.refine == "ls":
            return self._least_squares(
                prepared, matched, weights, source
            ), f"least squares ({self.options.output_scale})"
        done = []
        if self.options.repair != "none" and batchnorms(template.graph):
            weights = _Overlay(weights, reestimate(template.model, prepared.typing, weights, source, provider=provider))
            done.append("BatchNorm re-estimated")
        step = repair_step(template.graph, prepared.typing, self.options.repair)
        if plan is not None and step is not None and statistics is not None:
            weights = self._repaired(
                prepared, matched, plan, step, statistics=statistics, weights=weights, source=source
            )
            done.append(step.label)
        return weights, ", ".join(done) or "none"

    def _least_squares(
        self,
        prepared: Prepared,
        matched: MatchResult,
        weights: Mapping[str, NDArray[Any]],
        source: CalibrationSource,
    ) -> Mapping[str, NDArray[Any]]:
        with self.progress("least squares") as report:
            found = refine(
                prepared.models,
                prepared.typing,
                prepared.trace.dtypes,
                weights,
                matched.permutations,
                source,
                output_scale=self.options.output_scale,
                provider=self.options.provider,
                seed=self.options.seed,
                progress=report,
            )
        self.notes.extend(found.notes)
        return _Overlay(weights, found.weights)

    def _repaired(
        self,
        prepared: Prepared,
        matched: MatchResult,
        plan: RepairPlan,
        step: RepairStep,
        *,
        statistics: Statistics,
        weights: Mapping[str, NDArray[Any]],
        source: CalibrationSource,
    ) -> Mapping[str, NDArray[Any]]:
        typing, model = prepared.typing, prepared.models.template.model
        if step.which == "all" and matched.permutations:
            hidden = plan_repair(model.graph, typing, "free").layers
            weights = _Overlay(weights, balanced(prepared.models, typing, matched.permutations, hidden))
        aims = targets(plan, typing, statistics, matched.matchings)
        data = FirstSamples(source, REPAIR_SAMPLES)
        changed = repair(model, typing, weights, plan, aims, data, mode=step.mode, provider=self.options.provider)
        return _Overlay(weights, changed)

    def _report(
        self,
        prepared: Prepared,
        certificates: tuple[Certificate, ...],
        matched: MatchResult,
        repaired: str,
        source: CalibrationSource | None,
    ) -> MergeReport:
        options, models = self.options, prepared.models
        notes = [*self.notes, *(note for search in matched.searches for note in search.notes)]
        return MergeReport(
            models=tuple(network.label for network in models.sources),
            sha256=tuple(network.sha256 for network in models.sources),
            method=options.method,
            alpha=options.alpha if MATCHERS[options.method].alpha is None else MATCHERS[options.method].alpha,
            objective=options.objective,
            zip=(options.zip_a, options.zip_b) if MATCHERS[options.method].zips else None,
            seed=options.seed,
            repair=repaired,
            batches=None if source is None else source.batches,
            calibration=None if source is None else source.digest(),
            groups=_group_reports(prepared, matched),
            coverage=coverage(models.weights[0], prepared.typing),
            certificates=certificates,
            sweeps=tuple(search.sweeps for search in matched.searches),
            converged=all(search.converged for search in matched.searches),
            notes=tuple(dict.fromkeys(notes)),
            seconds=dict(self.seconds),
            peak_memory=_peak_memory(),
        )


class _Overlay(Mapping[str, NDArray[Any]]):
    """Weights of which some have been replaced."""

    def __init__(self, base: Mapping[str, NDArray[Any]], changed: Mapping[str, NDArray[Any]]) -> None:
        self._base, self._changed = base, changed

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._changed[name] if name in self._changed else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


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


def _require_finite(prepared: Prepared, weights: Mapping[str, NDArray[Any]], provider: str) -> None:
    """The merged model must run on the traced sample, and give finite values wherever the first parent does."""
    template, sample = prepared.models.template, prepared.trace.sample
    first = run(open_session(template.model, provider=provider), sample)
    merged = run(open_session(template.model, weights=weights, provider=provider), sample)
    for name, before in first.items():
        after = merged[name]
        if before.dtype.kind != "f":
            continue
        if np.isfinite(before).all() and not np.isfinite(after).all():
            raise ValidationError(
                f"{template.label}: output {name!r} of the merged model is not finite where its parents' is; "
                "try --repair none, or another method"
            )


def _group_reports(prepared: Prepared, matched: MatchResult) -> tuple[GroupReport, ...]:
    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    return tuple(
        GroupReport(
            space.id,
            space.size,
            space.varies_with,
            mean([s.similarity_before[space.id] for s in matched.searches if space.id in s.similarity_before]),
            mean([s.similarity_after[space.id] for s in matched.searches if space.id in s.similarity_after]),
        )
        for space in prepared.typing.spaces.values()
        if space.free
    )


def _peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
