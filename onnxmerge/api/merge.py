"""``merge``: the main job, stage by stage, from models to one model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.prepare import ModelSource, Prepared, load, require, type_models
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import BATCH_SIZE, CalibrationSource, SourceSpec, open_source
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.statistics import GramRequest, Statistics, gather
from onnxmerge.errors import UsageError, ValidationError
from onnxmerge.matching.methods import MATCHERS, MatchOptions, MatchProblem, MatchResult
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.repair import RepairPlan, applies, plan_repair, repair, targets
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session, run
from onnxmerge.model.write import save_network
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage, coverage
from onnxmerge.version import __version__

RepairChoice = Literal["auto", "none", "rescale", "repair"]
Progress = Callable[[str], AbstractContextManager[Report]]
"""Makes a progress display for one titled piece of work."""


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge.

    ``alpha`` is the weight of weight-space similarity (mudsc-align alone). ``objective`` is the weight-space similarity
    of rebasin: ``correlation``, or ``inner`` for the inner product of the original paper. ``repair`` "auto" repairs
    where BatchNorm was folded away. ``samples`` bounds the calibration data (None: all of it).
    """

    method: str = "mudsc-align"
    alpha: float = 0.5
    objective: Literal["correlation", "inner"] = "correlation"
    repair: RepairChoice = "auto"
    seed: int = 0
    samples: int | None = None
    batch_size: int = BATCH_SIZE
    provider: str = "auto"
    operators: Path | None = None


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group: mean similarity of matched units before (identity) and after, over the other models (None: unknown)."""

    id: str
    size: int
    varies_with: tuple[str, ...]
    similarity_before: float | None
    similarity_after: float | None


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What happened, for people and machines. ``seconds`` is by stage; ``peak_memory`` in bytes (None: unknown)."""

    models: tuple[str, ...]
    sha256: tuple[str, ...]
    method: str
    alpha: float | None
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
        "onnxmerge.seed": str(report.seed),
        "onnxmerge.repair": report.repair,
    }
    if report.alpha is not None:
        found["onnxmerge.alpha"] = repr(report.alpha)
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
        options: How to merge; ``settings`` are its fields given one by one (``method="rebasin"``, ``alpha=0.3``).
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        progress: Makes progress displays; silent by default.

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
        """The layers to repair; None where repair is off, or BatchNorm statistics do the same."""
        graph, choice = prepared.models.template.graph, self.options.repair
        wanted = applies(graph, prepared.typing) if choice == "auto" else choice != "none"
        if not wanted:
            return None
        if source is None:
            if choice != "auto":
                raise UsageError(f"--repair {choice} measures activations: give calibration data (--calib)")
            self.notes.append("statistics were not repaired: there is no calibration data")
            return None
        plan = plan_repair(graph, prepared.typing)
        self.notes.extend(plan.notes)
        return plan

    def _statistics(
        self, prepared: Prepared, plan: RepairPlan | None, source: CalibrationSource | None
    ) -> Statistics | None:
        wanted = MATCHERS[self.options.method].needs_activations
        grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if wanted else []
        requests = [*grams, *(plan.requests if plan is not None else ())]
        if source is None or not requests:
            return None
        models = prepared.models
        with self.progress("calibrating") as report:
            return gather(
                models.template,
                models.weights,
                prepared.typing,
                requests,
                source,
                provider=self.options.provider,
                progress=report,
            )

    def _match(self, prepared: Prepared, statistics: Statistics | None) -> MatchResult:
        options, weights = self.options, prepared.models.weights
        grams = statistics.gram if statistics is not None else {}
        activations = [
            {space: gram.correlation(0, other) for space, gram in grams.items()} for other in range(1, len(weights))
        ]
        problem = MatchProblem(prepared.typing, weights, activations)
        settings = MatchOptions(alpha=options.alpha, objective=options.objective, seed=options.seed)
        return MATCHERS[options.method](problem, settings)

    def _merged(
        self,
        prepared: Prepared,
        matched: MatchResult,
        plan: RepairPlan | None,
        statistics: Statistics | None,
        source: CalibrationSource | None,
    ) -> tuple[Mapping[str, NDArray[Any]], str]:
        """The merged weights, and what was done to their statistics."""
        typing, template, provider = prepared.typing, prepared.models.template, self.options.provider
        perms = matched.permutations
        weights: Mapping[str, NDArray[Any]] = combine(prepared.models, typing, perms)
        if plan is not None and statistics is not None and source is not None:
            mode: Literal["rescale", "repair"] = "rescale" if self.options.repair == "rescale" else "repair"
            aims = targets(plan, typing, statistics, perms)
            changed = repair(template.model, typing, weights, plan, aims, source, mode=mode, provider=provider)
            return _Overlay(weights, changed), mode
        if self.options.repair != "none" and batchnorms(template.graph):
            if source is not None:
                return _Overlay(weights, reestimate(template.model, typing, weights, source, provider=provider)), (
                    "batchnorm"
                )
            self.notes.append("BatchNorm statistics were averaged, not re-estimated: there is no calibration data")
        return weights, "none"

    def _report(
        self,
        prepared: Prepared,
        certificates: tuple[Certificate, ...],
        matched: MatchResult,
        repaired: str,
        source: CalibrationSource | None,
    ) -> MergeReport:
        options, models = self.options, prepared.models
        notes = [*self.notes, *(note for match in matched.matches for note in match.notes)]
        return MergeReport(
            models=tuple(network.label for network in models.sources),
            sha256=tuple(network.sha256 for network in models.sources),
            method=options.method,
            alpha=options.alpha if MATCHERS[options.method].alpha is None else MATCHERS[options.method].alpha,
            seed=options.seed,
            repair=repaired,
            batches=None if source is None else source.batches,
            calibration=None if source is None else source.digest(),
            groups=_group_reports(prepared, matched),
            coverage=coverage(models.weights[0], prepared.typing),
            certificates=certificates,
            sweeps=tuple(match.sweeps for match in matched.matches),
            converged=all(match.converged for match in matched.matches),
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
        if not isinstance(before, np.ndarray) or before.dtype.kind != "f":
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
            mean([m.similarity_before[space.id] for m in matched.matches if space.id in m.similarity_before]),
            mean([m.similarity_after[space.id] for m in matched.matches if space.id in m.similarity_after]),
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
