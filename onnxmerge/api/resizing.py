"""Merged groups of another width than their parents': ``--width`` (a zip) and ``--share`` (units kept apart)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.api.job import Job, Resized
from onnxmerge.api.methods import alpha_of, compares_activations
from onnxmerge.api.options import MergeOptions
from onnxmerge.api.prepare import Prepared
from onnxmerge.axes.resize import plain_spaces
from onnxmerge.calibration.statistics import Statistics
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import overrides
from onnxmerge.matching.plan import make_plan
from onnxmerge.merging.transport import composite_sources, identity, invert
from onnxmerge.widening.budget import budget_of, shared_units, weight_likeness
from onnxmerge.widening.layout import apart
from onnxmerge.widening.network import resized_network
from onnxmerge.widening.proof import provable


def resize(prepared: Prepared, options: MergeOptions) -> Resized | None:
    """The merged graph where the options ask for other widths, of the groups that can have them; None elsewhere."""
    if options.width is None and options.share == 1:
        return None
    models, typing, parents = prepared.models, prepared.typing, len(prepared.models.weights)
    groups = {name: space.size for name, space in typing.spaces.items() if space.free and space.size > 1}
    plain = plain_spaces(typing)
    if options.width is not None:
        zipped = make_plan(typing, overrides(options.groups, typing).pinned).groups
        plain = [name for name in plain if name in zipped]
    widths = {
        name: _width(groups[name], options, parents) for name in provable(plain, models, typing, prepared.trace.sample)
    }
    whole = [name for name in groups if name not in widths]
    told = "keep their width" if options.width is not None else "cannot be widened, so wholly shared"
    return Resized(
        resized_network(models.template, typing, widths),
        widths,
        (f"{told}: {', '.join(whole)}",) if whole else (),
        all(widths.get(name) == parents * size for name, size in groups.items()),
    )


def _width(size: int, options: MergeOptions, parents: int) -> int:
    """The merged units of a group of ``size`` units."""
    if options.width is not None:
        return max(round(options.width * size), 1)
    shared = shared_units(options.share, size)
    return shared + parents * (size - shared)


def kept_apart(job: Job, matched: MatchResult, statistics: Statistics | None) -> MatchResult:
    """The matching with only the most similar units of each resized group merged, and the others kept apart."""
    models, typing, options = job.prepared.models, job.prepared.typing, job.options
    names = [] if job.resized is None else list(job.resized.widths)
    likeness = weight_likeness(names, typing, models.weights, matched.permutations)
    alpha, compared = alpha_of(options) or 0.0, compares_activations(options)
    for name in names:
        gram = statistics.gram.get(name) if statistics is not None and compared else None
        if gram is None:
            continue
        seen = []
        for index, perms in enumerate(matched.permutations, start=1):
            (partner,) = composite_sources(name, typing.spaces, perms)
            seen.append(gram.correlation(0, index)[np.arange(partner.size), partner])
        likeness[name] = alpha * likeness[name] + (1 - alpha) * np.mean(seen, axis=0)
    budgets = {name: budget_of(likeness[name], options.share, len(models.weights)) for name in names}
    unmoved = identity(typing.spaces)
    others = [{**unmoved, **invert(perms, typing.spaces)} for perms in matched.permutations]
    return replace(matched, zipped=apart(budgets, [unmoved, *others]))
