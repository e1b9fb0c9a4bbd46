"""What the values of outputs say of their meaning: logits single out a class, an embedding's coordinates do not."""

from __future__ import annotations

import numpy as np

from onnxmerge.types import Rows

CODED = 0.5
"""Mean skewness across coordinates from which an output is taken for logits."""

WIDE = 16
"""Outputs of fewer coordinates are never taken for embeddings."""


def is_direction(rows: Rows) -> bool:
    """Whether outputs [samples, coordinates] look like embeddings rather than logits or measured quantities.

    Logits single out a class, so across coordinates (each about its mean over samples) they are skewed to the
    positive; an embedding's coordinates have no such sign.
    """
    if rows.shape[1] < WIDE:
        return False
    found = skewness(rows)
    return found is not None and found < CODED


def skewness(rows: Rows) -> float | None:
    """The mean over samples of how skewed coordinates are, each about its mean over samples; None where none varies."""
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1)
    alive = deviation > 0
    if not alive.any():
        return None
    return float(np.mean((centred[alive] ** 3).mean(axis=1) / deviation[alive] ** 3))
