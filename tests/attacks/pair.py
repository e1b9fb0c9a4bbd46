"""Two small models to merge, as files, and the command that merges them: what attacks on data are tried on."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.graphs import build, normal

RUN = ("run", "a.onnx", "b.onnx", "-o", "m.onnx", "-q")


def write_pair(folder: Path, *, images: bool = False, ids: bool = False) -> None:
    """a.onnx and b.onnx: x [N, 6], or images x [N, 3, 4, 4], to y [N, 3]; with ``ids`` an integer input i [N, 6]."""
    shape = "float[N,3,4,4] x" if images else "float[N,6] x"
    given = f"{shape}, int64[N,6] i" if ids else shape
    first = "f = Flatten(x)" if images else "j = Cast<to=1>(i) f = Add(x, j)" if ids else "f = Identity(x)"
    graph = f"({given}) => (float[N,3] y) {{ {first} h = Gemm(f, w, b) r = Relu(h) y = Gemm(r, v, c) }}"
    for seed, name in enumerate("ab"):
        weights = normal(w=(48 if images else 6, 8), b=(8,), v=(8, 3), c=(3,), seed=seed)
        onnx.save(build(graph, weights), folder / f"{name}.onnx")
