"""Operators that are inserted read constants of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.editor import GraphEditor, ints
from tests.graphs import build


def test_constants_that_are_equal_are_one() -> None:
    editor = GraphEditor(ir.from_proto(build("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }")))
    one, same = editor.constant(ints(0)), editor.constant(ints(0))
    others: list[NDArray[Any]] = [np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros((1, 1), np.int64), ints(1)]
    assert one is same
    assert len({each.name for each in (one, *map(editor.constant, others))}) == 5
    assert len(editor.graph.initializers) == 5
