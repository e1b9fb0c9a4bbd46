"""Tiny language models whose vocabularies differ, and the same model with its tokens in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from tests.graphs import build, initializers, normal, tensor

WIDTH, LENGTH = 8, 5

BODY = """
    e = Gather(table, ids) s = Add(e, places) h = MatMul(s, w1) r = Relu(h) d = MatMul(r, w2) t = Add(s, d)
    n = LayerNormalization(t, scale, shift)
"""
UNTIED = "l = MatMul(n, head) logits = Add(l, bias)"
TIED = "turned = Transpose<perm=[1,0]>(table) logits = MatMul(n, turned)"
ROWS = "f = Reshape(n, flat) l = Gemm<transB=1>(f, rows) logits = Reshape(l, back)"
"""A head of a row for each token, between Reshapes of which one says how many tokens there are."""


def language_model(
    tokens: int,
    seed: int = 0,
    head: str = UNTIED,
    *,
    ids: str = "",
    width: int = WIDTH,
    also: Mapping[str, ArrayLike] | None = None,
) -> onnx.ModelProto:
    """A model of ``ids`` [n, LENGTH] that gives logits [n, LENGTH, tokens]; ``ids`` are nodes in front, to `table`."""
    weights: dict[str, ArrayLike] = {
        **normal(table=(tokens, width), places=(LENGTH, width), seed=seed),
        **normal(w1=(width, 12), w2=(12, width), seed=seed + 100, scale=0.3),
        "scale": np.ones(width, np.float32) + np.float32(0.1) * np.arange(width, dtype=np.float32),
        "shift": np.zeros(width, np.float32),
    }
    if "head" in head:
        weights |= {**normal(head=(width, tokens), seed=seed + 200), **normal(bias=(tokens,), seed=seed + 300)}
    if "rows" in head:
        weights |= normal(rows=(tokens, width), seed=seed + 200)
        weights |= {"flat": [-1, width], "back": [-1, LENGTH, tokens]}
    body = BODY.replace("Gather(table, ids)", "Gather(table, known)") if ids else BODY
    signature = f"(int64[n,{LENGTH}] ids) => (float[n,{LENGTH},{tokens}] logits)"
    return build(f"{signature} {{ {ids} {body} {head} }}", {**weights, **(also or {})})


def reworded(model: onnx.ModelProto, order: Sequence[int]) -> onnx.ModelProto:
    """The model with its tokens in another order: its new token i is the old token order[i]."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    axes = {"table": 0, "head": 1, "bias": 0, "rows": 0}
    del found.graph.initializer[:]
    for name, array in initializers(model).items():
        found.graph.initializer.append(tensor(name, array.take(order, axes[name]) if name in axes else array))
    return found


def words(ids: Sequence[int]) -> list[str]:
    """Tokens by number: the same number is the same token in every list."""
    return [f"token{each}" for each in ids]


def some_ids(tokens: int, samples: int = 40) -> NDArray[np.int64]:
    """Token ids [samples, LENGTH] to measure on."""
    return np.random.default_rng(5).integers(0, tokens, (samples, LENGTH))
