"""The report of a merge, put together from what its stages found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from onnxmerge.api.outcome import HeadsReport, MergeReport, group_reports, peak_memory
from onnxmerge.pipeline.restoring import Merged
from onnxmerge.pipeline.selection.choosing import SelectedMatching
from onnxmerge.pipeline.selection.repairing import ChosenRepair
from onnxmerge.pipeline.separation import MergedModel
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import coverage

_TOLD = ("alpha", "objective", "zip_a", "zip_b", "groups")
"""Own options that the report has fields for."""


def report_of(
    selected: SelectedMatching,
    certificates: tuple[Certificate, ...],
    result: Merged,
    repaired: ChosenRepair,
    product: MergedModel,
    *,
    seconds: Mapping[str, float],
) -> MergeReport:
    """What happened, but for the comparison of the merged model with its parents."""
    job, matched = selected.job, selected.matched
    options, models, source = job.options, job.prepared.models, job.source
    apart, own = product.separation, dict[str, Any]()
    every = replace(options, refine="none" if options.refinement is None else options.refine).contracts
    for contract in every:
        values = options.own_of(contract)
        own |= {each.name: getattr(values, each.name) for each in fields(values)}
    notes = [
        *(() if apart is None else apart.notes),
        *(() if selected.search is None else selected.search.notes),
        *(() if job.resized is None else job.resized.notes),
        *result.notes,
        *(note for search in matched.searches for note in search.notes),
    ]
    return MergeReport(
        models=tuple(network.label for network in models.sources),
        sha256=tuple(network.sha256 for network in models.sources),
        weights=tuple(job.shares),
        method=options.method,
        alpha=options.alpha,
        objective=own.get("objective", "correlation"),
        zip=(own["zip_a"], own["zip_b"]) if "zip_a" in own else None,
        base=None if job.base is None else (job.base.network.label, job.base.network.sha256),
        scale=own.get("scale"),
        density=own.get("density", 1.0) if options.task_vectors is not None else None,
        method_options={name: value for name, value in own.items() if name not in _TOLD},
        search=selected.search,
        scales=selected.scales,
        soup=selected.soup,
        rotated=selected.rotated,
        repairs=repaired.tried,
        rules=options.groups,
        seed=options.seed,
        repair=result.repaired,
        batches=None if source is None else len(source.sizes),
        calibration=None if source is None else source.digest(),
        heads=None
        if apart is None
        else HeadsReport(tuple(sorted(apart.trunks.border)), options.until, product.outputs),
        share=options.share,
        width=options.width,
        groups=group_reports(job, matched),
        coverage=coverage(models.weights[0], job.prepared.typing),
        certificates=certificates,
        sweeps=tuple(search.sweeps for search in matched.searches),
        converged=all(search.converged for search in matched.searches),
        notes=tuple(dict.fromkeys(notes)),
        seconds=dict(seconds),
        peak_memory=peak_memory(),
    )
