"""What the tests of this folder say: a group as (size, sizes it varies with, places), and proof that it holds."""

from __future__ import annotations

import onnx

from onnxmerge.api.inspection import unit_groups
from onnxmerge.pipeline.prepare import load, type_models
from tests.axes.typed import Group


def group(size: int, *places: tuple[str, int], outer: tuple[int, ...] = ()) -> Group:
    """A group of ``size`` units that stands at ``places`` and may differ in each unit of the ``outer`` ones."""
    return (size, outer, frozenset(places))


def certified_groups(*models: onnx.ModelProto) -> set[Group]:
    """The groups of models typed together, each of which passes its certificate."""
    prepared = type_models(load(models), None, None)
    for index in range(len(models)):
        certificate = prepared.certify(index, seed=0, provider="cpu")
        assert certificate.passed, certificate.failure
        assert certificate.values_compared > 0
    spaces = prepared.typing.spaces
    return {
        (g.size, tuple(spaces[s].size for s in g.varies_with), frozenset((p.name, p.axis) for p in g.initializers))
        for g in unit_groups(prepared.typing)
    }
