"""A network in float64, computed by the reference implementation of ONNX.

ONNX Runtime has no convolution in float64, so this is the way to tell rounding from error: two networks that compute
the same function agree to 12 digits there, however steep they are. It is slow, and it lacks some operators.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.model.arrays import is_floating
from onnxmerge.model.network import Network
from onnxmerge.model.session import prepared
from onnxmerge.model.widen import widen
from onnxmerge.types import Arrays

NARROWER = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT)


def run_in_double(
    network: Network, weights: Arrays, tensors: Sequence[str], feeds: Iterable[Arrays]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The named tensors for each feed, in float64.

    Raises whatever the reference implementation raises where it lacks an operator or a type.
    """
    from onnx.reference import ReferenceEvaluator

    model = prepared(network.model, weights, tensors)
    for narrow in NARROWER:
        widen(model, narrow, ir.DataType.DOUBLE)
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                value.type = value.shape = None
    names = [str(value.name) for value in model.graph.outputs]
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    for feed in feeds:
        wide = {name: array.astype(np.float64) if is_floating(array.dtype) else array for name, array in feed.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's on overflow inside a Sigmoid, which comes out right
            results: Any = evaluator.run(None, wide)
        yield dict(zip(names, results, strict=True))
