"""When two versions of a tensor are the same: relative errors, and what of them is rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.arrays import is_floating
from onnxmerge.model.network import Network
from onnxmerge.model.trace import Trace
from onnxmerge.types import Arrays

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative error allowed, by the coarsest float type that the network computes in: about 1000 roundings."""

ROUNDINGS = {"float64": 2.0**-50, "float32": 2.0**-21, "float16": 2.0**-8, "bfloat16": 2.0**-5}
"""Absolute errors that say nothing, four roundings of 1: ONNX Runtime computes Sigmoid and the like to an absolute
precision, so where all of a tensor is small its relative error is not that of the network."""

QUANTIZED_TOLERANCE = 5e-2
"""Where activations are quantised a rounding can flip by a whole step, however exact the permutation."""

QUANTIZING = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear", "QGemm", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True, slots=True)
class Limits:
    """The relative error allowed, and the absolute one that is rounding whatever the tensor."""

    tolerance: float
    rounding: float


EXACT = Limits(TOLERANCES["float64"], ROUNDINGS["float64"])


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor before and after. ``same`` is False where shapes, integers or the places of nan and inf differ."""

    absolute: float
    relative: float
    values: int
    same: bool

    def differs(self, limits: Limits) -> bool:
        return not self.same or not self.relative <= limits.tolerance


@dataclass(frozen=True, slots=True)
class Compared:
    """All comparisons by tensor, and the first input on which one of them differs."""

    by_tensor: Mapping[str, Sequence[Comparison]]
    failing: Arrays | None

    @property
    def results(self) -> list[Comparison]:
        return [result for each in self.by_tensor.values() for result in each]

    @property
    def relative(self) -> float:
        return max((result.relative for result in self.results), default=0.0)

    @property
    def values(self) -> int:
        return sum(result.values for result in self.results)

    def passes_for(self, other: Compared) -> bool:
        """Whether these agree, and compare no less than the other did."""
        return self.failing is None and self.values >= other.values


def compare(before: NDArray[Any], after: NDArray[Any], limits: Limits) -> Comparison:
    """Compare two versions of one tensor."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return Comparison(0.0, 0.0, 0, same=False)
    if not is_floating(before.dtype):
        return Comparison(0.0, 0.0, 0, same=bool(np.array_equal(before, after)))
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    old, new = before.astype(wide), after.astype(wide)
    finite = np.isfinite(old)
    if not np.array_equal(finite, np.isfinite(new)) or not np.array_equal(old[~finite], new[~finite], equal_nan=True):
        return Comparison(np.inf, np.inf, int(finite.sum()), same=False)
    old, new = old[finite], new[finite]
    error = float(np.max(np.abs(old - new), initial=0.0))
    scale = float(np.max(np.abs(old), initial=0.0))
    relative = error / max(scale, limits.rounding / limits.tolerance)
    return Comparison(error, relative, old.size if scale > limits.rounding else 0, same=True)


def compare_all(runs: Iterable[tuple[Arrays, Arrays, Arrays]], limits: Limits) -> Compared:
    """Compare what two versions of a network gave: (feed, before, after), any number of times for a feed."""
    by_tensor: dict[str, list[Comparison]] = {}
    failing: Arrays | None = None
    for feed, before, after in runs:
        for name in before:
            result = compare(before[name], after[name], limits)
            by_tensor.setdefault(name, []).append(result)
            failing = feed if failing is None and result.differs(limits) else failing
    return Compared(by_tensor, failing)


def limits_for(network: Network, trace: Trace, watched: Iterable[str]) -> Limits:
    """Those of the coarsest float type among the weights and the tensors compared."""
    types = {str(trace.dtypes[name]) for name in (*watched, *network.weights) if name in trace.dtypes}
    coarsest = max(types & TOLERANCES.keys(), key=TOLERANCES.__getitem__, default="float32")
    tolerance = TOLERANCES[coarsest]
    if is_quantised(network):
        tolerance = max(tolerance, QUANTIZED_TOLERANCE)
    return Limits(tolerance, ROUNDINGS[coarsest])


def is_quantised(network: Network) -> bool:
    """Whether the network rounds activations to integers on the way."""
    return any(node.op_type.startswith(QUANTIZING) for node in network.graph)
