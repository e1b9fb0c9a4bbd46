"""Merged groups of another width than their parents': ``--width`` (a zip) and ``--share`` (units kept apart)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.statistics import Statistics
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import overrides, spaces_named
from onnxmerge.pipeline.job import Job, Resized
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Prepared
from onnxmerge.resizing.budget import budget_of, shared_units, similarity_in_weights
from onnxmerge.resizing.layout import apart
from onnxmerge.resizing.network import resized_network
from onnxmerge.resizing.proof import provable
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import composite, composite_shape, composite_sources, identity, invert
from onnxmerge.units.resize import resizable_spaces


def resize(prepared: Prepared, options: MergeOptions) -> Resized | None:
    """The merged graph where the options ask for other widths, of the groups that can have them; None elsewhere."""
    if not options.given_widths and options.share == 1:
        return None
    models, typing, parents = prepared.models, prepared.typing, len(prepared.models.weights)
    groups = _groups(typing)
    wanted = _wanted(groups, prepared, options)
    names = [name for name in _resizable(prepared, options) if name in wanted]
    widths = {name: wanted[name] for name in provable(names, models, typing, prepared.trace.sample)}
    around = {name: next((each for each in typing.spaces[name].varies_with if each in widths), name) for name in groups}
    whole = [name for name in wanted if around[name] not in widths]
    told = "keep their width" if options.width is not None else "cannot be widened, so wholly shared"
    return Resized(
        resized_network(models, typing, widths),
        widths,
        (f"{told}: {', '.join(whole)}",) if whole else (),
        all(widths.get(around[name]) == parents * groups[around[name]] for name in groups),
    )


def widenable(prepared: Prepared, options: MergeOptions) -> tuple[list[str], list[str]]:
    """The groups that a merge by these options can make of any width, and those that keep their own."""
    found = provable(_resizable(prepared, options), prepared.models, prepared.typing, prepared.trace.sample)
    return found, [name for name in _groups(prepared.typing) if name not in found]


def _groups(typing: Typing) -> dict[str, int]:
    """The sizes of the spaces whose units are merged."""
    return {name: space.size for name, space in typing.spaces.items() if space.free and space.size > 1}


def _resizable(prepared: Prepared, options: MergeOptions) -> list[str]:
    """The spaces that may have another width, if that holds on the model.

    A zip makes any width of those that are not pinned, and hold no others (whole heads).
    """
    names, typing = resizable_spaces(prepared.typing), prepared.typing
    if options.width is None:
        return names
    holding = {outer for space in typing.spaces.values() for outer in space.varies_with}
    matched = make_plan(typing, overrides(options.groups, typing).pinned).groups
    return [name for name in names if name in matched and name not in holding]


def _wanted(groups: Mapping[str, int], prepared: Prepared, options: MergeOptions) -> dict[str, int]:
    """The merged units of every group, of these sizes, that is to have another width.

    Raises UsageError for a pattern that names no group.
    """
    if options.width is None:
        parents = len(prepared.models.weights)
        shared = {name: shared_units(options.share, size) for name, size in groups.items()}
        return {name: shared[name] + parents * (size - shared[name]) for name, size in groups.items()}
    found = dict[str, float]()
    for pattern, width in options.given_widths:
        named = groups if pattern == "*" else spaces_named(pattern, prepared.typing, f"--width {options.width}")
        found |= dict.fromkeys((name for name in named if name in groups), width)
    return {name: merged_units(width, groups[name]) for name, width in found.items()}


def merged_units(width: float, size: int) -> int:
    """How many merged units there are at a width, of ``size`` in a model."""
    return max(round(width * size), 1)


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
