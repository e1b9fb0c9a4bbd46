"""The certificate: permute every unit that the typing calls free, and see that the network does not notice.

A random permutation of every free space is applied to all initializers, and both networks run in ONNX Runtime. What
must not change: the graph outputs, and the float tensors at *borders*, where an operator takes something permuted
and gives something fixed (outputs alone can be vacuous: ArgMax, saturated sigmoids). Running statistics are
randomised first, because equal ones would hide a wrong permutation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.layout import Positions, Space, TensorLayout, Typing
from onnxmerge.errors import StructureError
from onnxmerge.merging.combine import LazyWeights, is_floating, transported
from onnxmerge.merging.transport import Permutations, random_permutations, transport
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session, run
from onnxmerge.model.trace import Trace
from onnxmerge.validation.coverage import moves

Arrays = Mapping[str, NDArray[Any]]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative error allowed, by the coarsest float type that the network computes in: about 1000 roundings."""

ROUNDINGS = {"float64": 2.0**-50, "float32": 2.0**-21, "float16": 2.0**-8, "bfloat16": 2.0**-5}
"""Absolute errors that say nothing, four roundings of 1: ONNX Runtime computes Sigmoid and the like to an absolute
precision, so where all of a tensor is small its relative error is not that of the network."""

QUANTIZED_TOLERANCE = 5e-2
"""Where activations are quantised a rounding can flip by a whole step, however exact the permutation."""

QUANTIZING = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear", "QGemm", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the check found. Errors are the largest over all tensors compared and all inputs.

    A tensor's relative error is max |a - b| / max |a|, with max |a| no less than what makes four roundings of 1 reach
    the tolerance (0.005 in float32): see ROUNDINGS. ``values_compared`` counts the finite values of float tensors that
    are not all rounding; integer outputs are compared too (exactly), but prove little and are not counted.
    ``failure`` says in one line why it did not pass.
    """

    passed: bool
    max_absolute_error: float
    max_relative_error: float
    values_compared: int
    tensors_compared: int
    tolerance: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class _Limits:
    """The relative error allowed, and the absolute one that is rounding whatever the tensor."""

    tolerance: float
    rounding: float


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One tensor before and after. ``same`` is False where shapes, integers or the places of nan and inf differ."""

    absolute: float
    relative: float
    values: int
    same: bool

    def differs(self, limits: _Limits) -> bool:
        return not self.same or not self.relative <= limits.tolerance


@dataclass(frozen=True, slots=True)
class _Versions:
    """A network with its weights before and after the permutation."""

    network: Network
    original: Arrays
    permuted: Arrays
    provider: str

    def run(self, tensors: Sequence[str], feeds: Iterable[Arrays]) -> Iterator[tuple[Arrays, Arrays]]:
        """The tensors before and after, feed by feed."""
        sessions = [
            open_session(self.network.model, weights=weights, outputs=tensors, provider=self.provider)
            for weights in (self.original, self.permuted)
        ]
        for feed in feeds:
            before, after = (_arrays(run(session, feed)) for session in sessions)
            yield before, after


def permute_network(network: Network, typing: Typing, seed: int, *, weights: Arrays | None = None) -> LazyWeights:
    """The network's initializers (or ``weights``) under a random permutation of every free space: same function."""
    original = network.weights if weights is None else weights
    return transported(original, typing, moving_permutations(typing.spaces, seed))


def moving_permutations(spaces: Mapping[str, Space], seed: int) -> Permutations:
    """A random permutation of every free space of which none moves nothing, or the same in all its outer units.

    Chance alone would leave every other space of two units in place, and prove nothing about it.
    """
    perms = random_permutations(spaces, seed)
    for perm in perms.values():
        rows = perm.reshape(-1, perm.shape[-1])
        alike = bool(np.all(rows == rows[:1]))
        if alike and (len(rows) > 1 or np.array_equal(rows[0], np.arange(rows.shape[1]))):
            rows[0] = np.roll(rows[0], 1)
    return perms


def certify(
    network: Network,
    typing: Typing,
    trace: Trace,
    *,
    weights: Arrays | None = None,
    seed: int = 0,
    samples: int = 3,
    provider: str = "cpu",
) -> Certificate:
    """Permute all that is free and compare what must not change, on the traced sample and ``samples - 1`` others.

    ``weights`` replaces the network's own initializers (another member of a set that pairs up with it). Raises
    InputError where ONNX Runtime refuses the network.
    """
    original = randomised(network.weights if weights is None else weights, typing, seed)
    versions = _Versions(network, original, permute_network(network, typing, seed, weights=original), provider)
    outputs = [str(output.name) for output in network.graph.outputs]
    watched = list(dict.fromkeys([*border_tensors(network.graph, typing, trace), *outputs]))
    perms = moving_permutations(typing.spaces, seed)
    limits = _limits(network, trace, watched)

    compared: dict[str, list[_Comparison]] = {name: [] for name in watched}
    failing: Arrays | None = None
    feeds = list(_inputs(trace.sample, samples, seed))
    for feed, (before, after) in zip(feeds, versions.run(watched, feeds), strict=True):
        for name in before:
            expected = _aligned(before[name], name, typing, perms)
            if expected is None:
                continue
            result = compare(expected, after[name], limits)
            compared[name].append(result)
            failing = feed if failing is None and result.differs(limits) else failing

    results = [result for each in compared.values() for result in each]
    relative = max((result.relative for result in results), default=0.0)
    values = sum(result.values for result in results)
    failure = None
    if failing is not None:
        culprit = _first_divergence(versions, typing, perms, failing, limits)
        failure = f"permuting free units changes the network (relative error {relative:.1e}): {culprit}"
    elif values == 0:
        failure = "nothing was compared: no output and no tensor at a border holds finite float values"
    return Certificate(
        passed=failure is None,
        max_absolute_error=max((result.absolute for result in results), default=0.0),
        max_relative_error=relative,
        values_compared=values,
        tensors_compared=sum(any(result.values for result in each) for each in compared.values()),
        tolerance=limits.tolerance,
        failure=failure,
    )


def randomised(weights: Arrays, typing: Typing, seed: int) -> Arrays:
    """``weights`` with random running statistics of about their size: positive ones where none is negative now."""

    def draw(name: str) -> NDArray[Any]:
        array = weights[name]
        rng = np.random.default_rng([seed, *name.encode()])
        wide = array.astype(np.float64)
        size = float(np.sqrt(np.mean(np.square(wide)))) if wide.size else 0.0
        size = size if np.isfinite(size) and size > 0 else 1.0
        is_variance = bool(np.all(wide >= 0))
        values = rng.uniform(0.5, 2.0, array.shape) if is_variance else rng.standard_normal(array.shape)
        return (size * values).astype(array.dtype)

    statistics = {name for name in weights if name in typing.statistics and is_floating(weights[name].dtype)}
    return LazyWeights(weights, lambda name: draw(name) if name in statistics else weights[name])


def border_tensors(graph: ir.Graph, typing: Typing, trace: Trace) -> Iterator[str]:
    """Float tensors of which every axis is fixed, made by an operator that reads something free. Topological order."""
    free = {name for name, layout in typing.initializers.items() if moves(layout, typing.spaces)}
    free |= {name for name, layout in typing.activations.items() if moves(layout, typing.spaces)}
    for node in graph:
        if not any(value is not None and value.name in free for value in node.inputs):
            continue
        for value in node.outputs:
            name = str(value.name)
            dtype = trace.dtypes.get(name)
            if name in typing.activations and name not in free and dtype is not None and is_floating(dtype):
                yield name


def compare(before: NDArray[Any], after: NDArray[Any], limits: _Limits) -> _Comparison:
    """Compare two versions of one tensor."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return _Comparison(0.0, 0.0, 0, same=False)
    if not is_floating(before.dtype):
        return _Comparison(0.0, 0.0, 0, same=bool(np.array_equal(before, after)))
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    old, new = before.astype(wide), after.astype(wide)
    finite = np.isfinite(old)
    if not np.array_equal(finite, np.isfinite(new)) or not np.array_equal(old[~finite], new[~finite], equal_nan=True):
        return _Comparison(np.inf, np.inf, int(finite.sum()), same=False)
    old, new = old[finite], new[finite]
    error = float(np.max(np.abs(old - new), initial=0.0))
    scale = float(np.max(np.abs(old), initial=0.0))
    relative = error / max(scale, limits.rounding / limits.tolerance)
    return _Comparison(error, relative, old.size if scale > limits.rounding else 0, same=True)


def _inputs(sample: Arrays, count: int, seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The traced sample, then others of its shapes: floats with new noise, all else shuffled (so it stays in range)."""
    yield dict(sample)
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        yield {name: _another(array, rng) for name, array in sample.items()}


def _another(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    if not is_floating(array.dtype):
        return rng.permutation(array.reshape(-1)).reshape(array.shape)
    wide = array.astype(np.float64)
    spread = float(np.std(wide)) if wide.size else 0.0
    noise = rng.standard_normal(array.shape)
    # A constant input may be a recurrent state of zeros, which would hide what it is multiplied with.
    scale = spread if np.isfinite(spread) and spread > 0 else 1.0
    return np.asarray(np.mean(wide) + scale * noise, array.dtype).reshape(array.shape)


def _limits(network: Network, trace: Trace, watched: Iterable[str]) -> _Limits:
    """Those of the coarsest float type among the weights and the tensors compared."""
    types = {str(trace.dtypes[name]) for name in (*watched, *network.weights) if name in trace.dtypes}
    coarsest = max(types & TOLERANCES.keys(), key=TOLERANCES.__getitem__, default="float32")
    tolerance = TOLERANCES[coarsest]
    if any(node.op_type.startswith(QUANTIZING) for node in network.graph):
        tolerance = max(tolerance, QUANTIZED_TOLERANCE)
    return _Limits(tolerance, ROUNDINGS[coarsest])


def _first_divergence(
    versions: _Versions, typing: Typing, perms: Mapping[str, Positions], feed: Arrays, limits: _Limits
) -> str:
    """The operator behind the first tensor that is not the original's, permuted as the typing says."""
    nodes = {str(value.name): node for node in versions.network.graph for value in node.outputs if value.name}
    tensors = [name for name in nodes if name in typing.activations]
    for before, after in versions.run(tensors, [feed]):
        for name in tensors:
            expected = _expected(before[name], typing.activations[name], typing, perms) if name in before else None
            if expected is not None and compare(expected, after[name], limits).differs(limits):
                node = nodes[name]
                return f"tensor {name} is the first to be wrong, made by node {node.name} ({node.op_type})"
    return "every tensor with a known layout is as it should be, so an operator without one is wrong"


def _aligned(original: NDArray[Any], name: str, typing: Typing, perms: Mapping[str, Positions]) -> NDArray[Any] | None:
    """What a watched tensor should be: the original, or that permuted where the tensor's own units move."""
    layout = typing.activations.get(name)
    if layout is None or not moves(layout, typing.spaces):
        return original
    return _expected(original, layout, typing, perms)


def _expected(
    original: NDArray[Any], layout: TensorLayout, typing: Typing, perms: Mapping[str, Positions]
) -> NDArray[Any] | None:
    """The tensor as the permuted network should have it; None where its shape depends on the input's values."""
    if layout.shape != original.shape:
        return None
    try:
        return transport(original, layout, typing.spaces, perms)
    except StructureError:  # the outer space stands nowhere in this tensor: nothing is known about it
        return None


def _arrays(results: Mapping[str, Any]) -> Arrays:
    """What can be compared: no sequences, no text."""
    return {
        name: value
        for name, value in results.items()
        if isinstance(value, np.ndarray) and value.dtype.kind not in "OSU"
    }
