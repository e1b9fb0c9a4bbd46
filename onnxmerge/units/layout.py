"""What typing hands to every later stage: spaces, and where their units lie in each tensor.

A *space* is a set of interchangeable units. A tensor is cut into *blocks*: inside one block every axis is a
row-major grid over spaces, so any nesting of products (heads x width) and concatenations (q | k | v) comes down
to a few arrays of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnxmerge.types import Positions


@dataclass(frozen=True, slots=True)
class Space:
    """A set of ``size`` interchangeable units.

    ``varies_with`` names the outer spaces that its permutation may depend on, outermost first (a head's inner
    units may be permuted differently in each head). ``fixed`` is the reason why it must not move, or None.
    """

    id: str
    size: int
    varies_with: tuple[str, ...] = ()
    fixed: str | None = None

    @property
    def free(self) -> bool:
        return self.fixed is None


@dataclass(frozen=True, slots=True, eq=False)
class AxisBlock:
    """One axis inside one block: a grid over ``spaces`` (outermost first; none for a single position).

    ``positions`` has one dimension for each space and holds the index along the tensor's axis.
    """

    spaces: tuple[str, ...]
    positions: Positions


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A region of a tensor in which every axis is a plain grid over spaces."""

    axes: tuple[AxisBlock, ...]

    @property
    def spaces(self) -> tuple[str, ...]:
        """Every space of the block, axis by axis, outermost first; one that stands on two axes comes twice."""
        return tuple(space for axis in self.axes for space in axis.spaces)


@dataclass(frozen=True, slots=True, eq=False)
class TensorLayout:
    """The blocks of one tensor. They are disjoint and cover it."""

    name: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]

    def occurrences(self, space: str) -> Iterator[tuple[Block, int]]:
        """Each (block, axis) in which ``space`` stands."""
        for block in self.blocks:
            for index, axis in enumerate(block.axes):
                if space in axis.spaces:
                    yield block, index


@dataclass(frozen=True, slots=True, eq=False)
class Typing:
    """The result of typing one graph (shared by all models that pair up with it).

    ``initializers`` and ``activations`` map tensor names to layouts; activations have the sizes of the trace.
    ``statistics`` are initializers that hold running statistics (not part of a unit's weight vector).
    ``taps`` lists, for each free space, the activations in which an operator contracts it (what its consumers read).
    ``consumed`` holds (initializer, axis, space) where all readers take the space's units in: they add up, along that
    axis, the products with an activation. Along every other axis an initializer belongs to the units that it gives.
    """

    spaces: Mapping[str, Space]
    initializers: Mapping[str, TensorLayout]
    activations: Mapping[str, TensorLayout]
    statistics: frozenset[str] = frozenset()
    taps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    consumed: frozenset[tuple[str, int, str]] = frozenset()
