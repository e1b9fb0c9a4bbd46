"""A small model around one operator: its float operands are weights, and weights read all that it gives.

What an operand's axes may do shows in the groups that they end up in, and the certificate proves it: a sum of products
of every output with a weight of its own shape changes with any permutation that the operator does not allow. A layer
beside it moves in any case, so that no certificate is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxmerge.axes.operators import WHOLE, OperatorSpec
from onnxmerge.axes.signature import Term

Array: TypeAlias = NDArray[Any]
Places: TypeAlias = frozenset[tuple[int, int]]
"""(operand, axis)."""

NEWEST = 26
"""The newest opset that ONNX Runtime runs."""

_X = np.ones((1, 3), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """An operand that a weight becomes by a Cast: for operators that do not take floats."""

    values: Array


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One node, and the places of its operands that must be free: all others must be fixed.

    ``outputs``: how many it gives, from the first on.
    """

    name: str
    inputs: Sequence[Array | Learned | None]
    free: Places = frozenset()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    opset: int = NEWEST
    outputs: int = 1

    def model(self) -> onnx.ModelProto:
        """The model. Raises ONNX Runtime's exception where it does not run the node."""
        nodes, weights, names = [], [], []
        for index, operand in enumerate(self.inputs):
            values = operand.values if isinstance(operand, Learned) else operand
            if values is None:
                names.append("")
                continue
            names.append(f"i{index}")
            if isinstance(operand, Learned):
                kind = int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))
                nodes.append(onnx.helper.make_node("Cast", [f"w{index}"], [f"i{index}"], to=kind))
                weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
            else:
                weights.append(onnx.numpy_helper.from_array(np.asarray(values), f"i{index}"))
        outputs = [f"o{index}" for index in range(self.outputs)]
        node = onnx.helper.make_node(self.name, names, outputs, domain=self.domain, **self.attributes)
        nodes.append(node)
        shapes = [array.shape for array in self._run(nodes, weights, outputs)]
        return self._model(*_read(nodes, weights, shapes), ["y"])

    def _run(self, nodes: list[Any], weights: list[Any], outputs: list[str]) -> list[Array]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        model = self._model(nodes, weights, outputs)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: list[Array] = session.run(None, {"x": _X})
        return found

    def _model(self, nodes: Sequence[Any], weights: Sequence[Any], outputs: Sequence[str]) -> onnx.ModelProto:
        given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, _X.shape)
        graph = onnx.helper.make_graph(
            list(nodes), "g", [given], [onnx.ValueInfoProto(name=name) for name in outputs], list(weights)
        )
        domains = {"": self.opset, "com.microsoft": 1, "ai.onnx.ml": 3}
        imports = [onnx.helper.make_opsetid(name, version) for name, version in domains.items()]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)

    @property
    def places(self) -> Mapping[str, int]:
        """Which operand a weight is."""
        return {
            f"{'w' if isinstance(operand, Learned) else 'i'}{index}": index for index, operand in enumerate(self.inputs)
        }


def _read(
    nodes: Sequence[Any], weights: Sequence[Any], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[Any], list[Any]]:
    """The nodes and weights of a model that reads every output, and of a layer beside."""
    make, rng = onnx.helper.make_node, np.random.default_rng(1)
    made, held, parts = list(nodes), list(weights), ["beside"]
    for name, sizes in {"beside1": (3, 5), "beside2": (5, 2)}.items():
        held.append(onnx.numpy_helper.from_array(rng.standard_normal(sizes).astype(np.float32), name))
    made += [make("MatMul", ["x", "beside1"], ["hidden"]), make("MatMul", ["hidden", "beside2"], ["beside"])]
    for index, shape in enumerate(shapes):
        held.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"read{index}"))
        made.append(make("Cast", [f"o{index}"], [f"float{index}"], to=int(onnx.TensorProto.FLOAT)))
        made.append(make("Mul", [f"float{index}", f"read{index}"], [f"product{index}"]))
        made.append(make("ReduceSum", [f"product{index}"], [f"sum{index}"], keepdims=0))
        parts.append(f"sum{index}")
    return [*made, make("Sum", parts, ["y"])], held


def floats(*shape: int, seed: int = 0, low: float = 0.2, high: float = 0.9) -> Array:
    """A weight: positive and below 1, so that hardly any function makes no number of it."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def every(inputs: Sequence[Array | Learned | None]) -> Places:
    """All axes longer than one of all operands that are weights."""
    found = set()
    for index, operand in enumerate(inputs):
        values = _weight(operand)
        if values is not None:
            found |= {(index, axis) for axis, size in enumerate(values.shape) if size > 1}
    return frozenset(found)


def _weight(operand: Array | Learned | None, *, quantised: bool = False) -> Array | None:
    """What is learned of an operand, if anything."""
    if isinstance(operand, Learned):
        return operand.values
    return operand if operand is not None and (operand.dtype == np.float32 or quantised) else None


# --- models from descriptions ----------------------------------------------------------------------------------------

_SIZES = (2, 3, 4, 5, 6)
_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int16)": np.int16,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Hints:
    """What a description does not say of a model for it.

    ``sizes`` of letters and stars (axes), ``values`` of operands by name, or by place where all is elementwise (None
    leaves one out), ``attributes``, bounds of weights, which operands of integers are weights (``quantised``), the
    number of outputs if not all, and the newest opset that ONNX Runtime has a kernel for.
    """

    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    low: float = 0.2
    high: float = 0.9
    quantised: tuple[str, ...] = ()
    outputs: int | None = None
    opset: int = NEWEST


@cache
def _schemas() -> Mapping[tuple[str, str], Sequence[Any]]:
    """All operators that ONNX Runtime knows, each in all its versions: listing them takes as long as a small proof."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def schema_types(domain: str, name: str, opset: int) -> list[Sequence[str]]:
    """The types that each operand may have, the last one's for all further ones of a variadic operator."""
    versions = [s for s in _schemas()[domain, name] if domain or s.since_version <= opset]
    newest = max(versions, key=lambda s: s.since_version)
    constraints = {t.type_param_str: t.allowed_type_strs for t in newest.type_constraints}
    return [constraints.get(operand.typeStr, [operand.typeStr]) for operand in newest.inputs]


def from_signature(domain: str, entry: OperatorSpec, hints: Hints) -> Case:
    """A model of an entry that is a signature: every operand is there, and every letter has a size of its own."""
    opset = min(entry.until or NEWEST, hints.opset)
    types = schema_types(domain, entry.name, opset)
    letters = _letter_sizes(entry, hints.sizes)
    attributes: dict[str, Any] = {name: value for name, value in entry.when.items() if value}
    attributes |= {attribute: letters[letter] for letter, attribute in entry.sizes.items()}
    attributes |= dict.fromkeys(entry.from_axis.values(), -1)
    inputs: list[Array | Learned | None] = []
    free: set[tuple[int, int]] = set()
    for index, (name, pattern) in enumerate(entry.inputs.items()):
        if name in hints.values:
            inputs.append(hints.values[name])
            continue
        axes = [axis for term in pattern or () for axis in _term_axes(term, hints.sizes)]
        shape = [prod(letters[letter] if not letter.isdigit() else int(letter) for letter in axis) for axis in axes]
        values = floats(*shape, seed=index, low=hints.low, high=hints.high)
        dtype = next(kind for text, kind in _DTYPES.items() if text in types[min(index, len(types) - 1)])
        inputs.append(_typed(values, dtype))
    for index, (operand, (name, pattern)) in enumerate(zip(inputs, entry.inputs.items(), strict=True)):
        weight = _weight(operand, quantised=name in hints.quantised)
        if weight is None:
            continue
        axes = [axis for term in pattern or () for axis in _term_axes(term, hints.sizes)]
        for axis, found in enumerate(axes[len(axes) - weight.ndim :] if len(axes) >= weight.ndim else ()):
            if weight.shape[axis] > 1 and any(_moves(entry, letter) for letter in found):
                free.add((index, axis))
    used = hints.outputs or len(entry.outputs) - len(entry.unused)
    return Case(entry.name, inputs, frozenset(free), {**attributes, **hints.attributes}, domain, opset, used)


def _typed(values: Array, dtype: type[np.generic]) -> Array | Learned:
    """A weight of small numbers of this type."""
    if dtype == np.bool_:
        return Learned(values > np.mean(values))
    return values if dtype == np.float32 else Learned(np.round(9 * values).astype(dtype))


def _moves(entry: OperatorSpec, letter: str) -> bool:
    base = letter.partition(".")[0]
    fixed = letter.isdigit() or base in entry.fixed or base in entry.slides or base.startswith(WHOLE)
    return not fixed


def _term_axes(term: Term, sizes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if not term.star:
        return [term.letters]
    letter = term.letters[0]
    count = len(sizes.get(letter, (0,))) if not letter.startswith(WHOLE) else 0
    return [(f"{letter}.{index}",) for index in range(count)]


def _letter_sizes(entry: OperatorSpec, given: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for letter, size in given.items():
        found |= {f"{letter}.{i}": s for i, s in enumerate(size)} if isinstance(size, tuple) else {letter: size}
    for pattern in (*entry.inputs.values(), *entry.outputs.values()):
        for term in pattern or ():
            for axis in _term_axes(term, given):
                for letter in axis:
                    if not letter.isdigit() and letter not in found:
                        found[letter] = _SIZES[len(found) % len(_SIZES)]
    return found


def elementwise(domain: str, entry: OperatorSpec, hints: Hints) -> Case:
    """A model of an operator that works on every element by itself: all axes of all operands are free."""
    opset = min(entry.until or NEWEST, hints.opset)
    inputs: list[Array | Learned | None] = []
    for index, allowed in enumerate(schema_types(domain, entry.name, opset)):
        if str(index) in hints.values:
            inputs.append(hints.values[str(index)])
            continue
        shape = (2, 3, 4) if index == 0 else (3, 4)
        values = floats(*hints.sizes.get(str(index), shape), seed=index, low=hints.low, high=hints.high)  # type: ignore[misc]
        dtype = next(kind for text, kind in _DTYPES.items() if text in allowed)
        inputs.append(_typed(values, dtype))
    return Case(entry.name, inputs, every(inputs), dict(hints.attributes), domain, opset)
