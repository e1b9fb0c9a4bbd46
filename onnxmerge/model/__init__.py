"""Reading, running, pairing up and writing ONNX models."""

from __future__ import annotations

from onnxmerge.model.network import ModelSet, Network, Weights
from onnxmerge.model.pair import pair
from onnxmerge.model.read import read_network
from onnxmerge.model.sample import synthesize
from onnxmerge.model.session import open_session
from onnxmerge.model.trace import Trace, trace
from onnxmerge.model.write import save_network
from onnxmerge.types import Array

__all__ = [
    "Array",
    "ModelSet",
    "Network",
    "Trace",
    "Weights",
    "open_session",
    "pair",
    "read_network",
    "save_network",
    "synthesize",
    "trace",
]
