"""How far the layers of two networks are apart, one by one, on one sample: of one structure, or by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import TOLERANCES, Limits, compare
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session
from onnxmerge.model.stretches import arrays
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
    template, nodes = models.template, _nodes(models.template)
    versions = (models.weights[0], models.weights[1] if weights is None else weights)
    for _, (ours, theirs) in Exposed(template).runs(versions, [sample], list(nodes), provider=provider):
        yield from _drifts(nodes, arrays(ours), arrays(theirs))


def drifts_by_name(
    first: Network, second: Network, sample: Arrays, theirs: Arrays, *, tolerance: float, provider: str = "cpu"
) -> Iterator[Drift]:
    """The float tensors that two networks of other structures both have by name, in the order of the first.

    Optimisers and quantisers keep the names of what they keep; a tensor of one name and another shape is another one.
    ``sample`` is by the input names of the first, ``theirs`` the same by those of the second; ``tolerance`` is
    the relative error that is rounding. Raises InputError where one does not run.
    """
    own = _nodes(second)
    nodes = {name: operator for name, operator in _nodes(first).items() if name in own}
    if not nodes:
        return iter(())
    found, others = (
        open_session(network.model, outputs=list(nodes), provider=provider).run(feed)
        for network, feed in ((first, sample), (second, theirs))
    )
    alike = {
        name: operator
        for name, operator in nodes.items()
        if np.shape(found[name]) == np.shape(others[name]) and is_floating(np.asarray(others[name]).dtype)
    }
    return _drifts(alike, found, others, Limits(tolerance, tolerance * 1e-2))


def _nodes(network: Network) -> dict[str, str]:
    """The tensors that nodes give, and their operators."""
    return {str(value.name): node.op_type for node in network.graph for value in node.outputs if value.name}


def _drifts(
    nodes: Mapping[str, str], ours: Mapping[str, Any], theirs: Mapping[str, Any], limits: Limits | None = None
) -> Iterator[Drift]:
    for tensor, operator in nodes.items():
        one, other = ours.get(tensor), theirs.get(tensor)
        if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray) or not is_floating(one.dtype):
            continue
        allowed = limits or _limits(one.dtype)
        wide = np.result_type(one, other)
        found = compare(one.astype(wide, copy=False), other.astype(wide, copy=False), allowed)
        relative = found.relative if found.same else float("inf")
        yield Drift(tensor, operator, relative, found.differs(allowed))


def _limits(dtype: np.dtype[Any]) -> Limits:
    tolerance = TOLERANCES.get(dtype.name, TOLERANCES["float32"])
    return Limits(tolerance, tolerance * 1e-2)
