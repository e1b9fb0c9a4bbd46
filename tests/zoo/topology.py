"""Topologies: exported graphs in which every learned tensor is replaced by its shape, its type and how to draw it.

A topology is an ONNX ModelProto packed with lzma. A learned initializer has no data; its doc string says how to draw
values like those of the network it stands for:

    normal MEAN STD          of either sign
    lognormal MEAN STD SIGN  of one sign (scales, variances), MEAN and STD being those of the logarithm
    full VALUE               one value everywhere (not learned; only to save space)

Everything else (shape arithmetic, index tables, masks, rotary frequencies) keeps its values. ``tools/zoo/export.py``
writes topologies.
"""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent / "topologies"
SUFFIX = ".onnx.xz"


def available(folder: Path = FOLDER) -> list[Path]:
    """Every stored topology, in order of name."""
    return sorted(folder.rglob(f"*{SUFFIX}"))


def label(path: Path, folder: Path = FOLDER) -> str:
    """A short name: ``torchvision/resnet18.dynamo``."""
    return path.relative_to(folder).as_posix().removesuffix(SUFFIX)


def load_topology(path: Path, seed: int = 0) -> onnx.ModelProto:
    """The graph with weights drawn anew: values depend on ``seed``, the tensor's place, name, shape and rule alone."""
    return filled(load_packed(path), seed)


def load_packed(path: Path) -> onnx.ModelProto:
    """The graph as it is stored, with shapes in place of weights."""
    model = onnx.ModelProto()
    model.ParseFromString(lzma.decompress(path.read_bytes()))
    return model


def filled(topology: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """A copy of an unpacked topology with its weights drawn."""
    model = onnx.ModelProto()
    model.CopyFrom(topology)
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.doc_string:
            tensor.raw_data = draw(tensor, [seed, index, zlib.crc32(tensor.name.encode())]).tobytes()
            tensor.ClearField("doc_string")
    return model


def draw(tensor: onnx.TensorProto, seed: list[int]) -> NDArray[Any]:
    """Values for a tensor without data. See the module's docstring for the notation."""
    kind, *numbers = tensor.doc_string.split()
    mean, *rest = map(float, numbers)
    shape = tuple(tensor.dims)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if kind == "full":
        return np.full(shape, mean, dtype)
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    values *= np.float32(rest[0])
    values += np.float32(mean)
    if kind == "lognormal":
        np.exp(values, out=values)
        values *= np.float32(rest[1])
    return values.astype(dtype, copy=False)
