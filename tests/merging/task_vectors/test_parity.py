"""What published code gives for random task vectors: shared/design/parity.npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.merging.task_vectors.vectors import mean_vector, of_arrays

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tsv": ("tsv-m", {}),
    "iso_c": ("iso-c", {}),
    "knots_tsv": ("knots", {"inner": "tsv-m"}),
    "knots_iso_c": ("knots", {"inner": "iso-c"}),
    "knots_ties": ("knots", {"inner": "ties", "density": 0.2}),
    "knots_mean": ("knots", {"inner": "mean"}),
    "actmat": ("actmat", {}),
    "tact": ("tact", {"density": 0.5}),
    "ace_centred": ("ace", {}),
    "ties": ("ties", {"density": 0.2}),
}


@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
def test_parity(shape: str, shared: Path) -> None:
    known = np.load(shared / "design" / "parity.npz")
    vectors = of_arrays(known[f"{shape}.task_vectors"])
    keys = {key.partition(".")[2] for key in known if key.startswith(f"{shape}.")}
    assert keys == {*METHODS, "mean", "task_vectors"}
    np.testing.assert_allclose(mean_vector(vectors), known[f"{shape}.mean"], atol=1e-5)
    for key, (name, own) in METHODS.items():
        method = TASK_VECTORS[name]
        found = method.rule(vectors, method.options(**own))
        np.testing.assert_allclose(found, known[f"{shape}.{key}"], atol=1e-5, err_msg=key)
