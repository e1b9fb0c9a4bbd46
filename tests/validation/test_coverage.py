"""Shares of what can move."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing
from onnxmerge.validation.coverage import Coverage, coverage
from tests.layouts import typed


def test_axes_and_elements() -> None:
    weights: dict[str, NDArray[Any]] = {
        "w": np.zeros((6, 4, 1), np.float32),  # two axes longer than 1, one of them free
        "v": np.zeros((3, 6), np.float16),
        "b": np.zeros(3, np.float32),  # fixed
        "mean": np.zeros(6, np.float32),  # a statistic
        "index": np.zeros(5, np.int64),  # no float
    }
    typing = typed([Space("h", 6)], {"w": ["h", "4", "1"], "v": ["3", "h"], "b": ["3"], "mean": ["h"]}, None, ["mean"])
    assert coverage(weights, typing) == Coverage(2 / 5, (24 + 18) / (24 + 18 + 3))


def test_elements_are_counted_by_block() -> None:
    """A table of which two of five rows belong to a free space, the others to a fixed one."""
    spaces = {"h": Space("h", 2), "x": Space("x", 3, (), "graph input"), "n": Space("n", 4, (), "fixed")}
    columns = AxisBlock(("n",), np.arange(4))
    blocks = (
        Block((AxisBlock(("h",), np.arange(2)), columns)),
        Block((AxisBlock(("x",), 2 + np.arange(3)), columns)),
    )
    typing = Typing(spaces, {"w": TensorLayout("w", (5, 4), blocks)}, {})
    assert coverage({"w": np.zeros((5, 4), np.float32)}, typing) == Coverage(1 / 2, 8 / 20)


def test_a_space_of_one_unit_cannot_move_and_nothing_is_nothing() -> None:
    typing = typed([Space("one", 1)], {"w": ["one", "4"]})
    assert coverage({"w": np.zeros((1, 4), np.float32)}, typing) == Coverage(0.0, 0.0)
    assert coverage({}, typing) == Coverage(0.0, 0.0)


def test_a_tensor_without_a_layout_counts_as_fixed() -> None:
    assert coverage({"w": np.zeros((2, 4), np.float32)}, Typing({}, {}, {})) == Coverage(0.0, 0.0)
