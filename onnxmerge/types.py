"""What arrays are called in signatures; docstrings say their shapes in brackets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating[Any])
"""A float type that goes in and comes out: NDArray[Float]."""

Array: TypeAlias = NDArray[Any]
"""Of any type that a model stores."""

Arrays: TypeAlias = Mapping[str, Array]
"""Arrays by name: the weights of a model, or what it reads and gives."""

Floats: TypeAlias = NDArray[np.float64]
"""Numbers as they are computed with."""

Rows: TypeAlias = NDArray[np.float32]
"""Activations as they were measured [samples or positions, coordinates]."""

Positions: TypeAlias = NDArray[np.int64]
"""Indices of units, or along an axis of a tensor."""
