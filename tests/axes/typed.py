"""Type a small model in a test, and say what came out in words that do not depend on numbering."""

from __future__ import annotations

import onnx

from onnxmerge.api import Inspection, inspect
from onnxmerge.units.layout import Typing

Group = tuple[int, tuple[int, ...], frozenset[tuple[str, int]]]
"""(size, sizes of the spaces it varies with, {(initializer, axis)})."""


def typed(model: onnx.ModelProto) -> Typing:
    return inspect(model).prepared.typing


def certified(model: onnx.ModelProto) -> Inspection:
    """Type a model and require that its certificate passes."""
    found = inspect(model, certify=True)
    assert found.certificate is not None
    assert found.certificate.passed, found.certificate.failure
    assert found.certificate.values_compared > 0
    return found


def groups(found: Inspection) -> set[Group]:
    spaces = found.prepared.typing.spaces
    return {
        (g.size, tuple(spaces[s].size for s in g.varies_with), frozenset((p.name, p.axis) for p in g.initializers))
        for g in found.groups
    }


def free_axes(found: Inspection) -> set[tuple[str, int]]:
    return {(place.name, place.axis) for group in found.groups for place in group.initializers}
