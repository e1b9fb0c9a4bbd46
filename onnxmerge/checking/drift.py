"""How far the layers of two networks of one structure are apart, one by one, on one sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import TOLERANCES, Limits, compare
from onnxmerge.model.network import ModelSet
from onnxmerge.model.session import open_sessions, run
from onnxmerge.types import Arrays


@dataclass(frozen=True, slots=True)
class Drift:
    """One tensor of both networks: the node that gives it, and the error relative to its largest value."""

    tensor: str
    operator: str
    relative: float
    differs: bool


def drifts(models: ModelSet, sample: Arrays, weights: Arrays | None = None, provider: str = "cpu") -> Iterator[Drift]:
    """The float tensors of the first two networks in topological order; ``weights`` replace those of the second.

    ``sample`` is by the input names of the first. Raises InputError where it does not run.
    """
    template = models.template
    nodes = {str(value.name): node.op_type for node in template.graph for value in node.outputs if value.name}
    versions = (models.weights[0], models.weights[1] if weights is None else weights)
    sessions = open_sessions(template.model, versions, outputs=list(nodes), provider=provider)
    ours, theirs = (run(session, sample, where=template.label) for session in sessions)
    for tensor, operator in nodes.items():
        one, other = ours.get(tensor), theirs.get(tensor)
        if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray) or not is_floating(one.dtype):
            continue
        limits = _limits(one.dtype)
        found = compare(one, other, limits)
        relative = found.relative if found.same else float("inf")
        yield Drift(tensor, operator, relative, found.differs(limits))


def _limits(dtype: np.dtype[Any]) -> Limits:
    tolerance = TOLERANCES.get(dtype.name, TOLERANCES["float32"])
    return Limits(tolerance, tolerance * 1e-2)
