"""Merged groups of another width than their parents': ``--width`` (a zip) and ``--share`` (units kept apart)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.statistics import Statistics
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import overrides
from onnxmerge.pipeline.job import Job, Resized
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Prepared
from onnxmerge.resizing.budget import budget_of, shared_units, similarity_in_weights
from onnxmerge.resizing.layout import apart
from onnxmerge.resizing.network import resized_network
from onnxmerge.resizing.proof import provable
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import composite, composite_shape, composite_sources, identity, invert
from onnxmerge.units.resize import resizable_spaces


def resize(prepared: Prepared, options: MergeOptions) -> Resized | None:
    """The merged graph where the options ask for other widths, of the groups that can have them; None elsewhere."""
    if options.width is None and options.share == 1:
        return None
    models, typing, parents = prepared.models, prepared.typing, len(prepared.models.weights)
    groups = {name: space.size for name, space in typing.spaces.items() if space.free and space.size > 1}
    names = resizable_spaces(typing)
    if options.width is not None:
        names = _zipped(names, prepared, options)
    widths = {
        name: _width(groups[name], options, parents) for name in provable(names, models, typing, prepared.trace.sample)
    }
    around = {name: next((each for each in typing.spaces[name].varies_with if each in widths), name) for name in groups}
    whole = [name for name in groups if around[name] not in widths]
    told = "keep their width" if options.width is not None else "cannot be widened, so wholly shared"
    return Resized(
        resized_network(models, typing, widths),
        widths,
        (f"{told}: {', '.join(whole)}",) if whole else (),
        all(widths.get(around[name]) == parents * groups[around[name]] for name in groups),
    )


def _zipped(names: Sequence[str], prepared: Prepared, options: MergeOptions) -> list[str]:
    """Those of the spaces that a zip makes of any width: not those that are pinned, or hold others (whole heads)."""
    typing = prepared.typing
    holding = {outer for space in typing.spaces.values() for outer in space.varies_with}
    matched = make_plan(typing, overrides(options.groups, typing).pinned).groups
    return [name for name in names if name in matched and name not in holding]


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
    similarity = similarity_in_weights(names, typing, models.weights, matched.permutations)
    alpha = options.alpha or 0.0
    if statistics is not None and options.compares_activations:
        for name in names:
            seen = _activation_similarity(name, job, matched, statistics)
            similarity[name] = similarity[name] if seen is None else alpha * similarity[name] + (1 - alpha) * seen
    budgets = {name: budget_of(similarity[name], options.share, len(models.weights)) for name in names}
    unmoved = identity(typing.spaces)
    others = [{**unmoved, **invert(perms, typing.spaces)} for perms in matched.permutations]
    return replace(matched, zipped=apart(budgets, [unmoved, *others]))


def _activation_similarity(
    name: str, job: Job, matched: MatchResult, statistics: Statistics
) -> NDArray[np.float64] | None:
    """The correlation of matched units' activations, the mean over parents but the first and over what is inside them.

    None where no activations of theirs were seen.
    """
    spaces = job.prepared.typing.spaces
    found = []
    for inner in (each for each, space in spaces.items() if name in (each, *space.varies_with)):
        gram, shape = statistics.gram.get(inner), composite_shape(inner, spaces)
        if gram is None:
            continue
        for index, perms in enumerate(matched.permutations, start=1):
            sources = [np.broadcast_to(each, shape).reshape(-1) for each in composite_sources(inner, spaces, perms)]
            partner = np.ravel_multi_index(sources, shape)
            seen = gram.correlation(0, index)[np.arange(partner.size), partner].reshape(shape)
            place = composite(inner, spaces).index(name)
            found.append(np.moveaxis(seen, place, 0).reshape(shape[place], -1).mean(axis=1))
    return np.mean(found, axis=0) if found else None
