"""Make a topology of an exported model: see tests/zoo/topology.py for what it is and how it is read back."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

WEIGHT_SLOTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4),
}
"""Where a tensor that is no parameter under its own name (two were folded into one) is learned all the same."""

SMALL = 16
"""Uniform tensors of more elements are written as their one value."""

LARGE = 1 << 16
"""A float table of more elements is drawn anew, whatever it is: it would not be small."""

PROBES = 64


class Parameters:
    """What the exported network learns, by name and by value."""

    def __init__(self, named: Iterable[tuple[str, NDArray[Any]]]) -> None:
        self._named = dict(named)
        self._sorted: NDArray[Any] | None = None

    def knows(self, name: str, array: NDArray[Any]) -> bool:
        """Whether an initializer is a parameter, or is put together of parameters (transposed, stacked, cut)."""
        if any(name == own or name.endswith("." + own) for own in self._named):
            return True
        if array.dtype != np.float32 or array.size == 0:
            return False
        if self._sorted is None:
            floats = [values.ravel() for values in self._named.values() if values.dtype == np.float32]
            self._sorted = np.sort(np.concatenate(floats)) if floats else np.zeros(0, np.float32)
        probes = np.random.default_rng(0).choice(array.ravel(), min(PROBES, array.size), replace=False)
        places = np.minimum(np.searchsorted(self._sorted, probes), max(self._sorted.size - 1, 0))
        return bool(self._sorted.size) and float(np.mean(self._sorted[places] == probes)) > 0.9


def strip(model: onnx.ModelProto, parameters: Parameters) -> list[str]:
    """Take the values of all learned tensors out of ``model``; returns the names of constant tables that went too."""
    slots = _weight_slots(model.graph)
    dropped = []
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.ClearField("doc_string")
        if array.dtype.kind != "f" or array.size == 0:
            continue
        uniform = bool(np.all(array == array.ravel()[0]))
        if uniform and array.size <= SMALL:
            continue
        learned = not uniform and (parameters.knows(tensor.name, array) or tensor.name in slots)
        if not uniform and not learned:
            if array.size <= LARGE:
                continue
            dropped.append(tensor.name)
        rule = f"full {float(array.ravel()[0]):.9g}" if uniform else describe(array)
        dims, data_type, name = list(tensor.dims), tensor.data_type, tensor.name
        tensor.Clear()
        tensor.name, tensor.data_type, tensor.doc_string = name, data_type, rule
        tensor.dims.extend(dims)
    _forget(model.graph)
    for function in model.functions:
        for node in function.node:
            _forget_node(node)
    del model.metadata_props[:]
    model.ClearField("doc_string")
    return dropped


def describe(array: NDArray[Any]) -> str:
    """How to draw values like these."""
    wide = array.astype(np.float64)
    if wide.size > 1 and np.all(np.abs(wide) > 0) and np.all(np.sign(wide) == np.sign(wide.flat[0])):
        logs = np.log(np.abs(wide))
        return f"lognormal {logs.mean():.4g} {max(logs.std(), 0.01):.4g} {np.sign(wide.flat[0]):g}"
    return f"normal {wide.mean():.4g} {max(wide.std(), 0.01):.4g}"


def save(model: onnx.ModelProto, path: Path) -> int:
    """Write a topology; returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = lzma.compress(model.SerializeToString(deterministic=True), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return len(packed)


def _weight_slots(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers that an operator reads where weights belong."""
    return {
        node.input[slot] for node in graph.node for slot in WEIGHT_SLOTS.get(node.op_type, ()) if slot < len(node.input)
    }


def _forget(graph: onnx.GraphProto) -> None:
    """Drop stack traces, source lines and inferred shapes: they weigh more than the graph."""
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for node in graph.node:
        _forget_node(node)


def _forget_node(node: onnx.NodeProto) -> None:
    node.ClearField("doc_string")
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        if attribute.HasField("g"):
            _forget(attribute.g)
        for body in attribute.graphs:
            _forget(body)
