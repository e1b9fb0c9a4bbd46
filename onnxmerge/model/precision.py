"""A network in float16, its inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnxmerge.errors import InputError
from onnxmerge.model.network import Network
from onnxmerge.model.read import read_network


def halved(network: Network, weights: Mapping[str, NDArray[Any]]) -> Network:
    """The network with ``weights`` in float16, by ONNX Runtime's converter; inputs and outputs keep their types.

    Operators that have no float16 kernel stay in float32, between casts. Weights beyond float16's range are clipped by
    the converter. Raises InputError for a network that one protobuf file does not hold (2 GB).
    """
    copy = network.model.clone()
    for name, value in copy.graph.initializers.items():
        if name in weights:
            value.const_value = ir.tensor(weights[name], name=name)
    try:
        proto = ir.serde.serialize_model(copy)
        converted: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)
    except ValueError as error:
        raise InputError(f"{network.label}: cannot be converted to float16: {error}") from error
    return read_network(converted)
