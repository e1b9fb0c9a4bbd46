"""Make redrawn weights amplify signals as much as the exported ones did.

An exporter folds BatchNorm into convolutions, channel by channel; drawn with one standard deviation for the whole
tensor they amplify a little more or less, and that multiplies with depth until sigmoids saturate. So both networks
run on the same input, and each weight is scaled until its operator's output is of the size that it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from tests.zoo.topology import filled

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SCALE_FREE = ("Sigmoid", "Tanh", "Softmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "Sign")
SATURATING = ("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax", "Erf", "Gelu")
LARGEST_STEP = np.log(10.0)
ROUNDS = 10
CLOSE = 0.3


def balance(topology: onnx.ModelProto, original: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> None:
    """Scale the rules of ``topology`` in place, until no output is off by more than a third, or ROUNDS passed.

    A network in which nothing saturates may be of any size: it is left as it is.
    """
    if not any(node.op_type in SATURATING for node in topology.graph.node):
        return
    rules = {tensor.name: tensor for tensor in topology.graph.initializer if tensor.doc_string.startswith("normal")}
    made = [
        node.output[0] for node in topology.graph.node if node.op_type in LINEAR and set(node.input[:2]) & set(rules)
    ]
    if not made:
        return
    target = _sizes(original, made, feeds)
    for _ in range(ROUNDS):
        found = _sizes(filled(topology), made, feeds)
        missing = {
            name: float(np.log(target[name] / found[name]))
            for name in made
            if target.get(name, 0.0) > 0 and found.get(name, 0.0) > 0
        }
        if max(map(abs, missing.values()), default=0.0) < CLOSE:
            return
        for weight, logs in _corrections(topology.graph, set(rules), missing).items():
            _, mean, std = rules[weight].doc_string.split()
            factor = float(np.exp(np.mean(logs)))
            rules[weight].doc_string = f"normal {float(mean) * factor:.4g} {float(std) * factor:.4g}"


def _corrections(graph: onnx.GraphProto, weights: set[str], missing: Mapping[str, float]) -> dict[str, list[float]]:
    """By how much to scale each weight (as a logarithm), given what is missing at each output.

    Walks along the graph with what the corrections so far will do to each tensor, so that none is made twice. Every
    operator in between counts as homogeneous, or as scale-free; the next round finds what that was not.
    """
    changes: dict[str, float] = {}
    steps: dict[str, list[float]] = defaultdict(list)
    for node in graph.node:
        arriving = [changes[name] for name in node.input if name in changes]
        change = float(np.mean(arriving)) if arriving and node.op_type not in SCALE_FREE else 0.0
        own = [name for name in node.input[:2] if name in weights]
        if node.op_type in LINEAR and own and node.output[0] in missing:
            step = float(np.clip(missing[node.output[0]] - change, -LARGEST_STEP, LARGEST_STEP))
            for name in own:
                steps[name].append(step / len(own))
            change += step
        changes.update(dict.fromkeys(node.output, change))
    return steps


def _sizes(model: onnx.ModelProto, names: list[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The root mean square of tensors of a run."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {
        name: float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
        for name, array in zip(names, session.run(names, dict(feeds)), strict=True)
        if array.dtype.kind == "f" and array.size
    }
