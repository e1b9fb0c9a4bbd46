"""What the panel of a group is drawn from, as compact JSON inside the page; and what the picture is coloured by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmerge.api.outcome import MergeResult
from onnxmerge.matching.matched_units import UnitSimilarity
from onnxmerge.report.picture import Shade
from onnxmerge.types import Floats

BINS = 40
"""Of a distribution, from -1 to 1."""

UNITS = 1000
"""Of a group that are drawn in its scatter, evenly taken."""

EVERY = 200_000
"""Of all groups together."""


def as_json(result: MergeResult, names: Sequence[str]) -> str:
    """The units of every group that was matched, as JSON that may stand in a script element; null without details."""
    details = result.details
    if details is None or not details.groups:
        return "null"
    most = max(16, min(UNITS, EVERY // (len(details.groups) * max(len(names) - 1, 1))))
    told = _named(result)
    groups = [
        {
            "id": each.space,
            "name": told.get(each.space, ""),
            "pairs": [
                _pair(own, each.to_parents, most, None if each.outer is None else each.outer[index])
                for index, own in enumerate(each.similarity)
            ],
        }
        for each in details.groups
    ]
    text = json.dumps({"names": list(names), "groups": groups}, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def shades(result: MergeResult) -> dict[str, Shade]:
    """What each group of the picture is coloured by: its own similarity, and what was done to most of its numbers."""
    if result.flow is None:
        return {}
    done = {} if result.details is None else {each.name: each for each in result.details.weights}
    similarity = {group.id: group.similarity_after for group in result.report.groups}
    found = {}
    for group in result.flow.groups:
        numbers: dict[str, int] = {}
        for name in group.initializers:
            if name in done:
                numbers[done[name].done] = numbers.get(done[name].done, 0) + math.prod(done[name].shape)
        found[group.id] = Shade(similarity.get(group.id), max(numbers, key=numbers.__getitem__, default=""))
    return found


def _named(result: MergeResult) -> Mapping[str, str]:
    groups = () if result.flow is None else result.flow.groups
    return {name: group.name for group in groups for name in (group.id, *(inner for inner, _ in group.inner))}


def _pair(own: UnitSimilarity, near: Floats | None, most: int, outer: Floats | None) -> dict[str, Any]:
    """One group of two models: distributions of all its units, and some of the units by themselves."""
    known = own.weights if own.weights is not None else own.activations
    count = 0 if known is None else known.size
    taken = np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))
    found: dict[str, Any] = {
        "units": count,
        "paired": 0 if known is None else int((~np.isnan(known)).sum()),
        "weights": _distributions(own.weights_before, own.weights),
        "activations": _distributions(own.activations_before, own.activations),
    }
    if own.weights is not None and own.activations is not None:
        found["points"] = [_whole(own.weights[taken]), _whole(own.activations[taken])]
        found["near"] = None if near is None else _whole(near[taken])
    if outer is not None:
        found["outer"] = [_whole(row) for row in outer]
    return found


def _distributions(before: Floats | None, after: Floats | None) -> list[list[int] | None] | None:
    return None if after is None else [_histogram(before), _histogram(after)]


def _histogram(values: Floats | None) -> list[int] | None:
    if values is None:
        return None
    known = np.clip(values[~np.isnan(values)], -1, 1)
    return [int(each) for each in np.histogram(known, BINS, (-1, 1))[0]]


def _whole(values: Floats) -> list[int | None]:
    """Thousandths; None for what is not known."""
    return [None if math.isnan(each) else round(1000 * each) for each in values.tolist()]
