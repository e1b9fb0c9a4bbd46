"""How far arrays are apart, where some of what they hold may not be known (nan)."""

from __future__ import annotations

import numpy as np

from onnxmerge.types import Floats


def relative_error(found: Floats, wanted: Floats) -> float:
    """The Euclidean distance of two arrays, relative to the length of the second."""
    size, error = float(np.linalg.norm(wanted)), float(np.linalg.norm(found - wanted))
    return error / size if size else (0.0 if not error else float("inf"))


def known_error(found: Floats, wanted: Floats) -> float:
    """The Euclidean distance where ``wanted`` is known, relative to its length; nan where it is not at all."""
    known = ~np.isnan(wanted)
    return relative_error(found[known], wanted[known]) if known.any() else float("nan")


def known_mean(rows: Floats) -> Floats:
    """The mean over rows of what is no nan; nan where all is."""
    known = ~np.isnan(rows)
    total = np.where(known, rows, 0.0).sum(axis=0)
    found: Floats = np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
    return found
