"""What normalises activations as a network runs, by one operator or spelled out; its BatchNormalizations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.linear_layers import initializer_of
from onnxmerge.model.traits import has

PASSING = ("copies", "reshapes", "repeats")
"""Traits of operators that hand values on as they are."""


def normalises(graph: ir.Graph) -> bool:
    """Whether any activation that depends on a linear layer is normalised.

    An operator known for it does; so do the two marks of one spelled out: a mean subtracted from the very tensor
    it was taken of (layer, instance, group and batch norm), and the square root of a mean (RMS norm). Squeeze and
    excitation multiplies by a function of a mean, but has neither mark. An input standardised before the first linear
    layer does not count: that is preprocessing.
    """
    learned: set[ir.Value] = set()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        depends = any(value in learned for value in inputs)
        if depends and (has(node, "normalises") or _centres(node) or _roots_a_mean(node)):
            return True
        if depends or has(node, "linear_layer"):
            learned.update(node.outputs)
    return False


def _centres(node: ir.Node) -> bool:
    """Whether this is x - ReduceMean(x), or the other way round."""
    if node.op_type != "Sub" or len(node.inputs) != 2:
        return False
    one, other = (_behind(value) for value in node.inputs)
    return _is_mean_of(one, other) or _is_mean_of(other, one)


def _is_mean_of(mean: ir.Value | None, value: ir.Value | None) -> bool:
    producer = mean.producer() if mean is not None else None
    if producer is None or value is None or producer.op_type not in ("ReduceMean", "GlobalAveragePool"):
        return False
    return _behind(producer.inputs[0]) is value


def _roots_a_mean(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        exponent = node.inputs[1]
        tensor = exponent.const_value if exponent is not None else None
        if tensor is None or tensor.size != 1 or abs(float(tensor.numpy().reshape(-1)[0])) != 0.5:
            return False
    elif node.op_type != "Sqrt":
        return False
    stack, seen = [node.inputs[0]], set()
    while stack:
        value = stack.pop()
        producer = value.producer() if value is not None else None
        if producer is None or producer in seen:
            continue
        seen.add(producer)
        if producer.op_type == "ReduceMean":
            return True
        if has(producer, *PASSING, "arithmetic", "selects"):
            stack.extend(producer.inputs)
    return False


def _behind(value: ir.Value | None) -> ir.Value | None:
    """The value that ``value`` hands on."""
    while value is not None:
        producer = value.producer()
        if producer is None or not has(producer, *PASSING):
            return value
        value = producer.inputs[0]
    return None


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A BatchNormalization with fixed statistics: its input tensor and the initializers of its mean and variance."""

    tensor: str
    mean: str
    variance: str
    dtype: ir.DataType


def batchnorms(graph: ir.Graph, alike: Collection[str] = ()) -> list[BatchNorm]:
    """All that normalise with initializers (not with the batch's own statistics), in topological order.

    Those are left out whose outputs are ``alike``.
    """
    found = []
    for node in graph:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or node.outputs[0].name in alike:
            continue
        training = node.attributes.get("training_mode")
        mean, variance = (initializer_of(node.inputs[index]) for index in (3, 4))
        if (training is not None and training.as_int()) or mean is None or variance is None:
            continue
        tensor = node.inputs[0]
        dtype = (tensor.dtype if tensor is not None else None) or mean.dtype or ir.DataType.FLOAT
        found.append(
            BatchNorm(str(tensor.name if tensor is not None else ""), str(mean.name), str(variance.name), dtype)
        )
    return found
