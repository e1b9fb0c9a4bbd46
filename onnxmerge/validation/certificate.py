"""The certificate: permute every unit that the typing calls free, and see that the network does not notice.

A random permutation of every free space is applied to all initializers, and both networks run in ONNX Runtime. What
must not change: the graph outputs, and the float tensors at *borders*, where an operator takes something permuted
and gives something fixed (outputs alone can be vacuous: ArgMax, saturated sigmoids). Running statistics are
randomised first, because equal ones would hide a wrong permutation.

Where a steep network makes more of float32's rounding than the tolerance allows, the check is repeated in float64 and
decided there, to nine digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.errors import InputError, ResourceError, StructureError
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import EXACT, Compared, Limits, compare, compare_all, is_quantised, limits_for
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import Network
from onnxmerge.model.stretches import Values, arrays
from onnxmerge.model.trace import Trace
from onnxmerge.types import Arrays, Positions
from onnxmerge.units.layout import Space, TensorLayout, Typing
from onnxmerge.units.permutations import Permutations, random_permutations, transport, transported
from onnxmerge.validation.coverage import moves
from onnxmerge.validation.double import run_in_double
from onnxmerge.validation.one_row import one_row

MOST_ELEMENTS_IN_DOUBLE = 100_000_000
"""Elements of all computed tensors up to which a check that fails is repeated in float64 (some seconds)."""


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
class _Versions:
    """A network with its weights before and after the permutation."""

    exposed: Exposed
    original: Arrays
    permuted: Arrays
    provider: str

    def run(self, tensors: Sequence[str], feeds: Sequence[Arrays]) -> Iterator[tuple[Arrays, Arrays, Arrays]]:
        """Tensors before and after: (feed, before, after), all of them for each feed at once or by and by."""
        versions = (self.original, self.permuted)
        for number, found in self.exposed.runs(versions, feeds, tensors, provider=self.provider):
            before, after = (_comparable(values) for values in found)
            yield feeds[number], before, after


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
    typing: Typing,
    trace: Trace,
    *,
    weights: Arrays | None = None,
    seed: int = 0,
    samples: int = 3,
    provider: str = "cpu",
) -> Certificate:
    """Permute all that is free and compare what must not change, on the traced sample and ``samples - 1`` others.

    A large network is run on one row of the traced sample alone, where each tensor has values to compare in it: a run
    costs seconds.

    ``weights`` replaces the own initializers of the network that was traced (another member of a set that pairs up
    with it). Raises InputError where ONNX Runtime refuses the network.
    """
    network = trace.network
    original = randomised(network.weights if weights is None else weights, typing, seed)
    versions = _Versions(trace.exposed, original, permute_network(network, typing, seed, weights=original), provider)
    outputs = [str(output.name) for output in network.graph.outputs]
    watched = list(dict.fromkeys([*border_tensors(network.graph, typing, trace), *outputs]))
    limits, perms = limits_for(network, trace, watched), moving_permutations(typing.spaces, seed)

    def compared(feeds: Sequence[Arrays]) -> Compared:
        return compare_all(_expecting(versions.run(watched, feeds), typing, perms), limits)

    feeds: list[Arrays] = list(_inputs(trace.sample, samples, seed))
    if trace.exposed.large:
        found, feeds = _of_large(compared, _sample_of_large(trace, typing, watched), trace)
    else:
        found = compared(feeds)
    exact = None if found.failing is None else _compare_in_double(versions, typing, watched, feeds, trace, perms)
    if exact is not None:
        found, limits = (exact, EXACT) if exact.passes_for(found) else (found, limits)
    failure = None
    if found.failing is not None:
        failing = trace.sample if trace.exposed.large else found.failing
        culprit = _first_divergence(versions, typing, perms, failing, limits)
        failure = f"permuting free units changes the network (relative error {found.relative:.1e}): {culprit}"
    elif found.values == 0:
        failure = (
            "nothing was compared: no output and no tensor at a border holds finite float values on the sample; give "
            "data that the model is made for (--calib, --input), or leave the model out"
        )
    return Certificate(
        passed=failure is None,
        max_absolute_error=max((result.absolute for result in found.results), default=0.0),
        max_relative_error=found.relative,
        values_compared=found.values,
        tensors_compared=sum(any(result.values for result in each) for each in found.by_tensor.values()),
        tolerance=limits.tolerance,
        failure=failure,
    )


def _compare_in_double(
    versions: _Versions,
    typing: Typing,
    watched: Sequence[str],
    feeds: Sequence[Arrays],
    trace: Trace,
    perms: Mapping[str, Positions],
) -> Compared | None:
    """The versions compared in float64; None where the reference implementation cannot, or would take too long."""
    computed = sum(prod(shape) for name, shape in trace.shapes.items() if name not in versions.original)
    if is_quantised(versions.exposed.network) or computed > MOST_ELEMENTS_IN_DOUBLE:
        return None
    try:
        runs = [
            list(run_in_double(versions.exposed.network, weights, watched, feeds))
            for weights in (versions.original, versions.permuted)
        ]
        return compare_all(_expecting(zip(feeds, *runs, strict=True), typing, perms), EXACT)
    except Exception:  # noqa: BLE001  (whatever it raises for what it does not know: then float32 has the say)
        return None


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


def _sample_of_large(trace: Trace, typing: Typing, watched: Sequence[str]) -> Arrays:
    """One row; all of the traced sample where units of a watched tensor move.

    Where these come to stand is known for tensors of the traced sizes.
    """
    layouts = [typing.activations[name] for name in watched if name in typing.activations]
    return trace.sample if any(moves(each, typing.spaces) for each in layouts) else one_row(trace)


def _of_large(
    compare_on: Callable[[Sequence[Arrays]], Compared], row: Arrays, trace: Trace
) -> tuple[Compared, list[Arrays]]:
    """What one row tells of a large network, or else all of the traced sample, and which of them it was.

    A network may run on the batch of the traced sample only; and what compares rows with each other may give zeros for
    one alone, or nothing finite, so that there is nothing to compare in some tensor.
    """
    try:
        found = compare_on([row])
    except ResourceError:
        raise
    except InputError:
        if row is trace.sample:
            raise
        return compare_on([trace.sample]), [trace.sample]
    floats = [each for name, each in found.by_tensor.items() if is_floating(trace.dtypes[name])]
    told = all(any(result.values for result in each) for each in floats)
    if told or found.failing is not None or row is trace.sample:
        return found, [row]
    return compare_on([trace.sample]), [trace.sample]


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


def _expecting(
    runs: Iterable[tuple[Arrays, Arrays, Arrays]], typing: Typing, perms: Mapping[str, Positions]
) -> Iterator[tuple[Arrays, Arrays, Arrays]]:
    """What watched tensors should be (permuted, where their own units move as those of a border do), and are."""
    for feed, before, after in runs:
        expected = {}
        for name, value in before.items():
            layout = typing.activations.get(name)
            still = layout is None or not moves(layout, typing.spaces)
            wanted = value if layout is None or still else _expected(value, layout, typing, perms)
            if wanted is not None:
                expected[name] = wanted
        yield feed, expected, after


def _first_divergence(
    versions: _Versions, typing: Typing, perms: Mapping[str, Positions], feed: Arrays, limits: Limits
) -> str:
    """The operator behind the first tensor that is not the original's, permuted as the typing says."""
    nodes = {str(value.name): node for node in versions.exposed.network.graph for value in node.outputs if value.name}
    tensors = [name for name in nodes if name in typing.activations]
    for _, before, after in versions.run(tensors, [feed]):
        for name in before:
            expected = _expected(before[name], typing.activations[name], typing, perms)
            if expected is not None and compare(expected, after[name], limits).differs(limits):
                node = nodes[name]
                return f"tensor {name} is the first to be wrong, made by node {node.name} ({node.op_type})"
    return "every tensor with a known layout is as it should be, so an operator without one is wrong"


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


def _comparable(values: Values) -> Arrays:
    """The tensors, but no text."""
    return {name: array for name, array in arrays(values).items() if array.dtype.kind not in "OSU"}
