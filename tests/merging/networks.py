"""Small networks for tests of merging, and a calibration source over arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import rows
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from onnxmerge.units.layout import Space, Typing
from tests.graphs import batchnorm, build, normal
from tests.layouts import typed

Arrays = Mapping[str, NDArray[Any]]


class Source:
    """The calibration source of batches in memory."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self.feeds = [dict(feed) for feed in feeds]

    @property
    def sizes(self) -> list[int]:
        return [rows(feed) for feed in self.feeds]

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return iter(self.feeds)

    def at(self, places: Sequence[int]) -> Iterator[dict[str, NDArray[Any]]]:
        return (self.feeds[place] for place in places)

    def digest(self) -> str:
        return "0" * 64


def images(count: int, batch: int, *, seed: int = 0, mean: float = 1.0) -> Source:
    """Batches of [batch, 3, 5, 5]."""
    data = np.random.default_rng(seed).normal(mean, 2.0, (count, 3, 5, 5)).astype(np.float32)
    return Source([{"x": data[start : start + batch]} for start in range(0, count, batch)])


def network(graph: str, weights: Arrays, **options: Any) -> Network:
    return read_network(build(graph, weights, **options))


def models(*sets: Network) -> ModelSet:
    """Networks that are known to be paired already."""
    return ModelSet(sets[0], tuple(each.weights for each in sets), sets)


def values(model: ir.Model, weights: Arrays, names: Sequence[str], feeds: Arrays) -> dict[str, NDArray[Any]]:
    """Tensors of a network with other weights."""
    return open_session(model, weights=weights, outputs=names).run(dict(feeds))


KEPT = """({batch},3,5,5] x) => (float[n,4] y) {{
    a = Conv(x, w1, b1)
    p = BatchNormalization(a, n1_scale, n1_bias, n1_mean, n1_var)
    q = Relu(p)
    c = Conv(q, w2, b2)
    d = BatchNormalization(c, n2_scale, n2_bias, n2_mean, n2_var)
    e = Add(d, q)
    r = Relu(e)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}}"""

FOLDED = """({batch},3,5,5] x) => (float[n,4] y) {{
    p = Conv(x, w1, b1)
    q = Relu(p)
    d = Conv(q, w2, b2)
    e = Add(d, q)
    r = Relu(e)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}}"""

UNITS = 6


def residual(text: str = FOLDED, *, seed: int = 0, batch: str = "float[n", opset: int = 21) -> Network:
    """Two convolutions on a residual stream of 6 units, with BatchNorm (KEPT) or without (FOLDED)."""
    weights: dict[str, NDArray[Any]] = dict(
        normal(w1=(6, 3, 1, 1), b1=(6,), w2=(6, 6, 1, 1), b2=(6,), w3=(4, 6), b3=(4,), seed=seed)
    )
    if "Batch" in text:
        weights |= batchnorm("n1", UNITS, seed=seed) | batchnorm("n2", UNITS, seed=seed + 1)
    return network(text.format(batch=batch), weights, opset=opset)


def residual_typing() -> Typing:
    """The typing of ``residual``: one free space, the stream."""
    stream = ["2", "u", "5", "5"]
    norm = {f"n{index}_{name}": ["u"] for index in (1, 2) for name in ("scale", "bias", "mean", "var")}
    return typed(
        [Space("u", UNITS)],
        {"w1": ["u", "3", "1", "1"], "b1": ["u"], "w2": ["u", "u", "1", "1"], "b2": ["u"], "w3": ["4", "u"], **norm}
        | {"b3": ["4"]},
        {"x": ["2", "3", "5", "5"], **dict.fromkeys("apqcder", stream), "f": ["2", "u"], "y": ["2", "4"]}
        | {"g": ["2", "u", "1", "1"]},
        [name for name in norm if name.endswith(("mean", "var"))],
    )
