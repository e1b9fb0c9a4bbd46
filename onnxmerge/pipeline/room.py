"""Whether a merge has the memory that it takes at the least, told before anything is measured.

What is needed follows from the sizes of tensors and groups. It is less than what a merge takes in the end, so that
nothing is refused which the machine could hold; what takes more than it may is stopped where it does (``memory``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnxmerge.errors import ResourceError
from onnxmerge.matching.overrides import overrides
from onnxmerge.memory import memory_budget, readable
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Prepared
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import composite_shape

SQUARES = 2
"""Matrices [units, units] of float64 that matching a group holds at once, whatever the method."""


@dataclass(frozen=True, slots=True)
class Need:
    """``size`` bytes that ``what`` takes at the least, and what would do with less."""

    what: str
    size: int
    instead: str


def needs(prepared: Prepared, how: MergeOptions) -> Iterator[Need]:
    """The largest things that a merge in one way must hold."""
    found, weights = prepared.trace, prepared.models.template.weights
    sizes = {
        name: math.prod(found.shapes[name]) * found.dtypes[name].itemsize for name in weights if name in found.shapes
    }
    if sizes:
        largest = max(sizes, key=sizes.__getitem__)
        shape = list(found.shapes[largest])
        yield Need(f"merging initializer {largest[:100]!r} of shape {shape}", sizes[largest], "")
    if how.task_vectors is not None or (how.matcher is not None and not how.matcher.moves):
        return
    plan = make_plan(prepared.typing, overrides(how.groups, prepared.typing).pinned)
    units = {
        name: math.prod(composite_shape(name, plan.spaces)) for group in plan.groups.values() for name in group.members
    }
    if units:
        widest = max(units, key=units.__getitem__)
        wide = SQUARES * 8 * units[widest] ** 2
        told = "pin that group in a recipe, or take --method average, which matches nothing; or "
        yield Need(f"matching the {units[widest]} units of group {widest}", wide, told)


def require_memory(prepared: Prepared, how: MergeOptions) -> None:
    """Raise ResourceError where a merge takes more memory than it may."""
    label, room = prepared.models.template.label, memory_budget()
    for need in needs(prepared, how):
        if need.size > room:
            raise ResourceError(
                f"{label}: {need.what} takes {readable(need.size)} of memory, and {readable(room)} may be taken; "
                f"{need.instead}allow more with --max-memory"
            )
