"""What a merge hands back: the merged model, and the report of how it came about."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.api.compare import json_values
from onnxmerge.api.notebook import shown_in_notebook, table
from onnxmerge.api.summary import FORECAST_HEADS, expectations, facts, forecast_row
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.answer.answer import Answered
from onnxmerge.model.footprint import Footprint
from onnxmerge.model.network import Network
from onnxmerge.model.paths import absolute, short_names
from onnxmerge.model.publication import Publication
from onnxmerge.model.training import ROLES, Roles
from onnxmerge.pipeline.details.layers import LayersReport
from onnxmerge.pipeline.details.merge import MergeDetails
from onnxmerge.pipeline.forecasting import Forecast
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.publish import Source, save_apart
from onnxmerge.pipeline.quantising import QuantisedReport
from onnxmerge.pipeline.selection.effort import EffortReport
from onnxmerge.pipeline.selection.ingredients import SoupReport
from onnxmerge.pipeline.selection.repairing import RepairCandidate
from onnxmerge.pipeline.selection.scaling import ScaleReport
from onnxmerge.pipeline.selection.search import SearchReport
from onnxmerge.pipeline.selection.weighing import WeightsReport
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.pipeline.vocabulary import Vocabulary, VocabularyReport
from onnxmerge.units.flow import Flow
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage
from onnxmerge.version import __version__


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group, and the mean similarity of its matched units before (identity) and after (None: unknown).

    ``size`` is the number of units in each parent, ``width`` in the merged model.
    """

    id: str
    size: int
    width: int
    varies_with: tuple[str, ...]
    similarity_before: float | None
    similarity_after: float | None


@dataclass(frozen=True, slots=True)
class HeadsReport:
    """Heads that were kept apart.

    ``border`` are the merged tensors that they read, ``until`` what the user asked to merge up to, ``outputs`` the
    names of each parent's outputs in the merged model (a name that all have is of an output that stayed joint).
    """

    border: tuple[str, ...]
    until: tuple[str, ...]
    outputs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What happened, for people and machines.

    ``weights`` are the models' shares, ``zip`` is (a, b) of a zip method, ``base`` (label, sha256), ``scale`` and
    ``density`` are those of task vectors, ``method_options`` all other own options. ``search`` says how method and
    alpha were chosen (None: by the user), ``rules`` are those for single groups, ``rotated`` the spaces that
    were rotated, ``repairs`` what the repair was chosen from (empty: by the user, or by rule). ``heads`` is None where
    everything was merged, ``share`` the fraction of each group's units that was merged, ``width`` that of a model's
    units which a zip made of each group, or of single ones (None: all); see ``pipeline.resizing``. ``footprints`` are
    of each parent, then of the merged model.
    ``reconstruction`` is the relative error of each parent's outputs (see ``validation.reconstruction``), on
    ``held_out`` data or else on that of calibration; None without any. ``answers`` says of each output what it is
    and what its layer was solved for (empty where that was not asked for). ``effort`` says how the way to merge was
    found, ``weighing`` how its weights were, and ``widening`` how its widths were (None: by the user). ``soup`` says
    which models were taken for a greedy soup (None: it is none); those left out have no share. ``layers`` says
    what became of the linear layers (None without data). ``labelled``: labels decided something in the merge that was
    done. ``vectors``: class vectors were read, whether there are labels or not. ``quantised`` says how the merged model
    was quantised again (None: it was not), ``certificates`` has one for each model (empty: no unit was moved and none
    measured, so none was needed), ``vocabulary`` which tokens it has (None: the models have one vocabulary),
    ``training`` what training does with each of its tensors (None: nobody asked). ``recipe`` is all that
    was asked for (``pipeline.provenance``). ``seconds`` is by stage, ``peak_memory`` in bytes (None: unknown).
    """

    models: tuple[str, ...]
    sha256: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    alpha: float | None
    objective: str
    zip: tuple[float, float] | None
    base: tuple[str, str] | None
    scale: float | None
    density: float | None
    method_options: Mapping[str, Any]
    search: SearchReport | None
    rotated: tuple[str, ...]
    repairs: tuple[RepairCandidate, ...]
    rules: tuple[GroupRule, ...]
    seed: int
    repair: str
    batches: int | None
    calibration: str | None
    heads: HeadsReport | None
    share: float
    width: float | str | None
    groups: tuple[GroupReport, ...]
    coverage: Coverage
    certificates: tuple[Certificate, ...]
    sweeps: tuple[int, ...]
    converged: bool
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    peak_memory: int | None
    held_out: bool = False
    footprints: tuple[Footprint, ...] = ()
    reconstruction: tuple[float | None, ...] | None = None
    recipe: str = ""
    answers: tuple[Answered, ...] = ()
    effort: EffortReport | None = None
    scales: ScaleReport | None = None
    soup: SoupReport | None = None
    weighing: WeightsReport | None = None
    widening: WidthsReport | None = None
    layers: LayersReport | None = None
    labelled: bool = False
    vectors: bool = False
    quantised: QuantisedReport | None = None
    vocabulary: VocabularyReport | None = None
    training: Roles | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, for JSON."""
        found = asdict(self)
        return {**found, "layers": json_values(found["layers"]), "version": __version__}

    def _repr_html_(self) -> str:
        """The summary, for notebooks."""
        names = short_names(self.models)
        errors = self.reconstruction or (None,) * len(names)
        costs = [
            (name, f"{cost.parameters:,}", f"{cost.flops:,}", "" if error is None else f"{error:.3g}")
            for name, cost, error in zip((*names, "merged"), self.footprints, (*errors, None), strict=False)
        ]
        heads = ("model", "parameters", "FLOPs a sample", "relative error of the merged model's outputs")
        title = f"{' + '.join(names)}: {self.method}"
        return shown_in_notebook(title, [table(heads, costs), table(("", ""), facts(self, names))], self.notes)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge would do: the models, paired up and certified, and how many ways to match them would be tried.

    ``border`` are the tensors that heads read where they stay apart (None: everything would be merged).
    ``certificates`` has one for each model (empty: as long as no unit is moved, none is needed). ``notes`` are
    what is odd about the models. ``forecast`` is what the merge is expected to come to (None: nobody asked),
    ``vocabulary`` which tokens the merged model would have (None: the models have one vocabulary).
    """

    models: tuple[str, ...]
    options: MergeOptions
    candidates: int
    groups: tuple[GroupReport, ...]
    border: tuple[str, ...] | None
    coverage: Coverage
    certificates: tuple[Certificate, ...]
    calibrated: bool
    notes: tuple[str, ...] = ()
    forecast: Forecast | None = None
    vocabulary: VocabularyReport | None = None

    def _repr_html_(self) -> str:
        """What is expected, for notebooks."""
        title, notes = " + ".join(short_names(self.models)), self.notes
        found = self.forecast
        if found is None:
            rows = [(each.id, f"{each.size:,}", f"{each.width:,}") for each in self.groups]
            return shown_in_notebook(title, [table(("group", "units of a parent", "merged"), rows)], notes)
        tables = [table(FORECAST_HEADS, map(forecast_row, found.groups)), table(("", ""), expectations(found))]
        return shown_in_notebook(title, tables, (*notes, *found.notes))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, for JSON."""
        options = asdict(self.options)
        return {**asdict(self), "options": {**options, "own": dict(options["own"])}, "version": __version__}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged model, not yet written: weights are computed when they are read.

    ``flow`` is how the groups that were merged feed one another, ``details`` what was asked for with ``details=True``,
    ``vocabulary`` the tokens that models of different vocabularies were brought to.
    """

    template: Network
    weights: Mapping[str, NDArray[Any]]
    report: MergeReport
    read: tuple[Source, ...] = ()
    flow: Flow | None = None
    details: MergeDetails | None = None
    vocabulary: Vocabulary | None = None

    def _repr_html_(self) -> str:
        """The summary, for notebooks."""
        return self.report._repr_html_()

    def save(self, path: str | os.PathLike[str], *, together: Publication | None = None) -> Path:
        """Write the merged model, whole or not at all; the first model's names, opset and metadata are kept.

        Where models of different vocabularies were merged, their one token list is written beside it.
        With ``together`` it appears when that is published. Raises InputError where it cannot be written, UsageError
        where ``path`` is one of the files that were merged or measured on (``read``).
        """
        template = replace(self.template, model=_unsigned(self.template.model))
        found, texts = provenance(self.report), dict[Path, str]()
        if self.vocabulary is not None:
            target = absolute(path)
            texts[self.vocabulary.file(target)] = self.vocabulary.text(target)
        return save_apart(template, self.weights, path, found, self.read, together, texts=texts)


def _unsigned(model: ir.Model) -> ir.Model:
    """The model without what its metadata says of how onnxmerge made it: the merge is made in another way."""
    copy = model.clone()
    for key in [key for key in copy.metadata_props if key.startswith("onnxmerge.")]:
        del copy.metadata_props[key]
    return copy


def provenance(report: MergeReport) -> dict[str, str]:
    """What goes into the merged file's ``metadata_props``.

    ``onnxmerge.recipe`` is everything that determines its bytes, beside the versions of the libraries; the rest says in
    short how it was made, and what was chosen where that was left open.
    """
    found = {
        "onnxmerge.version": __version__,
        "onnxmerge.sources": " ".join(report.sha256),
        "onnxmerge.weights": " ".join(map(repr, report.weights)),
        "onnxmerge.recipe": report.recipe,
        "onnxmerge.method": report.method,
        "onnxmerge.objective": report.objective,
        "onnxmerge.seed": str(report.seed),
        "onnxmerge.repair": report.repair,
    }
    if report.alpha is not None:
        found["onnxmerge.alpha"] = repr(report.alpha)
    if report.zip is not None:
        found["onnxmerge.zip"] = " ".join(map(repr, report.zip))
    if report.base is not None:
        found["onnxmerge.base"] = report.base[1]
    found |= _own_options(report)
    if report.search is not None:
        found["onnxmerge.search"] = f"{len(report.search.candidates)} candidates by {report.search.criterion}"
    if report.rules:
        found["onnxmerge.rules"] = " ".join(map(repr, report.rules))
    if report.rotated:
        found["onnxmerge.rotated"] = " ".join(report.rotated)
    found |= _other_parts(report)
    if report.calibration is not None:
        found["onnxmerge.calibration"] = report.calibration
        if report.held_out:
            found["onnxmerge.held_out"] = "every fifth sample"
    return found


def _other_parts(report: MergeReport) -> dict[str, str]:
    """What the merged network has otherwise than its parents: heads, widths, tokens, roles in training."""
    found = {}
    if report.heads is not None:
        found["onnxmerge.heads"] = " ".join(report.heads.border)
    if report.share < 1:
        found["onnxmerge.share"] = repr(report.share)
    if report.width is not None:
        found["onnxmerge.width"] = str(report.width)
    if report.vocabulary is not None:
        found["onnxmerge.vocabulary"] = (
            f"{report.vocabulary.tokens} {report.vocabulary.sha256} {report.vocabulary.kept}"
        )
    if report.training is not None:
        found[ROLES] = report.training.text()
    return found


def _own_options(report: MergeReport) -> dict[str, str]:
    """The options of the method's own."""
    own = report.method_options
    if "scale" in own:
        own = {"scale": own["scale"], "density": report.density, **own}
    return {f"onnxmerge.{name}": repr(value) for name, value in own.items() if value not in (None, ())}


def group_reports(job: Job, matched: MatchResult | None) -> tuple[GroupReport, ...]:
    """What matching found for each free group; None before matching."""
    searches = () if matched is None else matched.searches
    widths = {} if job.resized is None else job.resized.widths

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    return tuple(
        GroupReport(
            space.id,
            space.size,
            widths.get(space.id, space.size),
            space.varies_with,
            mean([s.similarity_before[space.id] for s in searches if space.id in s.similarity_before]),
            mean([s.similarity_after[space.id] for s in searches if space.id in s.similarity_after]),
        )
        for space in job.prepared.typing.spaces.values()
        if space.free
    )


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
