"""Typings of common architectures, built by hand, and models to match: a random one and a permuted copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing
from onnxmerge.units.permutations import (
    Permutations,
    composite_shape,
    composite_sources,
    invert,
    random_permutations,
    transport,
)

Weights = dict[str, NDArray[Any]]


def axis_block(spaces: Mapping[str, Space], names: str, begin: int = 0) -> AxisBlock:
    """A row-major grid over spaces (by name, separated by blanks) from a position on."""
    sizes = [spaces[name].size for name in names.split()]
    return AxisBlock(tuple(names.split()), begin + np.arange(np.prod(sizes, dtype=int)).reshape(sizes))


def typing(
    spaces: Sequence[Space], tensors: Mapping[str, Sequence[str | Sequence[str]]], statistics: Sequence[str] = ()
) -> Typing:
    """One axis is a string of space names, or a list of such strings for segments, one block for each."""
    by_name = {space.id: space for space in spaces}
    layouts = {}
    for name, axes in tensors.items():
        segments: list[list[AxisBlock]] = [[]]
        for axis in axes:
            begin, parts = 0, []
            for names in [axis] if isinstance(axis, str) else axis:
                parts.append(axis_block(by_name, names, begin))
                begin += parts[-1].positions.size
            segments = [[*before, part] for before in segments for part in parts]
        shape = tuple(1 + max(int(row[axis].positions.max()) for row in segments) for axis in range(len(axes)))
        layouts[name] = TensorLayout(name, shape, tuple(Block(tuple(row)) for row in segments))
    return Typing(by_name, layouts, {}, frozenset(statistics))


def fixed(name: str, size: int) -> Space:
    return Space(name, size, (), "graph input")


def mlp() -> Typing:
    spaces = [fixed("x", 12), Space("a", 16), Space("b", 20), fixed("y", 6)]
    return typing(spaces, {"w1": ["a", "x"], "b1": ["a"], "w2": ["a", "b"], "b2": ["b"], "w3": ["y", "b"]})


def batch_norm() -> Typing:
    """Two convolutions on a residual stream, with statistics that mean nothing."""
    spaces = [fixed("x", 3), fixed("k", 9), Space("s", 12), Space("i", 10), fixed("y", 5)]
    tensors = {"stem": ["s", "x", "k"], "conv1": ["i", "s", "k"], "conv2": ["s", "i", "k"], "head": ["s", "y"]}
    norms = {f"{name}.{part}": [space] for name, space in (("n1", "s"), ("n2", "i")) for part in ("scale", "mean")}
    return typing(spaces, tensors | norms, ["n1.mean", "n2.mean"])


def attention() -> Typing:
    spaces = [
        fixed("x", 7),
        Space("s", 16),
        Space("h", 3),
        Space("qk", 5, ("h",)),
        Space("v", 4, ("h",)),
        fixed("y", 6),
    ]
    tensors = {"in": ["s", "x"], "out": ["y", "s"], "o": ["h v", "s"], "v": ["h v", "s"], "table": ["y", "h"]}
    return typing(spaces, tensors | {"q": ["h qk", "s"], "q.b": ["h qk"], "k": ["s", "h qk"]})


def fused_attention() -> Typing:
    """One projection to q | k | v: three blocks of a tensor."""
    spaces = [fixed("x", 7), Space("s", 16), Space("h", 3), Space("qk", 5, ("h",)), Space("v", 5, ("h",))]
    rows = ["h qk", "h qk", "h v"]
    return typing(spaces, {"in": ["s", "x"], "qkv": [rows, "s"], "qkv.b": [rows], "o": ["s", "h v"]})


def group_norm() -> Typing:
    """The residual stream stands on both sides of a convolution, with groups that move as a whole."""
    spaces = [fixed("x", 6), fixed("k", 4), Space("g", 4), Space("c", 3, ("g",)), Space("h", 4), Space("e", 3, ("h",))]
    tensors = {"stem": ["g c", "x", "k"], "conv": ["g c", "g c", "k"], "scale": ["g c"], "up": ["h e", "g c"]}
    return typing(spaces, tensors | {"down": ["g c", "h e"], "up.scale": ["h e"]})


def grouped_convolution() -> Typing:
    """ResNeXt: the grouped convolution's inputs i and outputs o share a block, group by group."""
    spaces = [fixed("x", 8), Space("s", 10), Space("g", 4), Space("i", 3, ("g",)), Space("o", 5, ("g",)), fixed("k", 3)]
    tensors = {"in": ["s", "x"], "reduce": ["g i", "s"], "grouped": ["g o", "i", "k"], "scale": ["g o"]}
    return typing(spaces, tensors | {"expand": ["s", "g o"], "out": ["x", "s"]})


def depthwise_convolution() -> Typing:
    spaces = [fixed("x", 8), Space("g", 9), Space("i", 1, ("g",)), Space("o", 1, ("g",)), fixed("k", 3)]
    return typing(spaces, {"expand": ["g i", "x"], "depthwise": ["g o", "i", "k"], "project": ["x", "g o"]})


def recurrent() -> Typing:
    """A two-directional LSTM: its units vary with the direction, which is fixed, and stand on two axes of r."""
    spaces = [fixed("x", 6), fixed("d", 2), fixed("gate", 4), Space("h", 12, ("d",)), fixed("y", 3)]
    tensors = {"w": ["d", "gate h", "x"], "r": ["d", "gate h", "h"], "b": ["d", "gate h"], "out": ["d h", "y"]}
    return typing(spaces, tensors)


def three_levels() -> Typing:
    """Units in heads in groups; two kinds of units share a block at the innermost level."""
    spaces = [
        fixed("x", 9),
        Space("g", 2),
        Space("h", 3, ("g",)),
        Space("d", 4, ("g", "h")),
        Space("e", 3, ("g", "h")),
        Space("o", 3, ("g",)),
    ]
    tensors = {"w": ["g h d", "x"], "v": ["x", "g h e"], "mix": ["g h d", "e"], "gate": ["g o", "h", "d"]}
    return typing(spaces, tensors | {"o": ["g o", "x"], "bias": ["g h", "x"]})


def experts() -> Typing:
    spaces = [fixed("x", 7), Space("s", 8), Space("e", 3), Space("h", 6, ("e",))]
    tensors = {"in": ["s", "x"], "route": ["s", "e"], "up": ["e", "s", "h"], "down": ["e", "h", "s"]}
    return typing(spaces, tensors)


STRUCTURES: dict[str, Callable[[], Typing]] = {
    function.__name__: function
    for function in (
        mlp,
        batch_norm,
        attention,
        fused_attention,
        group_norm,
        grouped_convolution,
        depthwise_convolution,
        recurrent,
        three_levels,
        experts,
    )
}


@dataclass(frozen=True)
class Example:
    """A random model, a permuted copy, the permutations that bring the copy back, and activations of both.

    ``together`` has the units of both models on both sides, ``activations`` those of one on each.
    """

    typing: Typing
    first: Weights
    other: Weights
    truth: Permutations
    together: dict[str, NDArray[np.float64]]

    @property
    def activations(self) -> dict[str, NDArray[np.float64]]:
        return {name: each[: len(each) // 2, len(each) // 2 :] for name, each in self.together.items()}


def random_weights(typed: Typing, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(layout.shape).astype(np.float32) + np.float32(0.1)
        for name, layout in typed.initializers.items()
    }


def example(typed: Typing, seed: int = 0, noise: float = 0.0) -> Example:
    rng = np.random.default_rng(seed)
    first = random_weights(typed, seed)
    truth = random_permutations(typed.spaces, seed + 1)
    hidden = invert(truth, typed.spaces)
    other = {
        name: transport(
            array + noise * rng.standard_normal(array.shape).astype(np.float32),
            typed.initializers[name],
            typed.spaces,
            hidden,
        )
        for name, array in first.items()
    }
    for name in typed.statistics:
        other[name] = rng.standard_normal(other[name].shape)
    return Example(typed, first, other, truth, _activations(typed, hidden, rng, noise))


def _activations(
    typed: Typing, hidden: Permutations, rng: np.random.Generator, noise: float
) -> dict[str, NDArray[np.float64]]:
    """Correlations for the innermost spaces, as taps show them."""
    outers = {outer for space in typed.spaces.values() if space.free for outer in space.varies_with}
    found = {}
    for name, space in typed.spaces.items():
        if not space.free or name in outers:
            continue
        shape = composite_shape(name, typed.spaces)
        ours = rng.standard_normal((*shape, 200))
        theirs = ours[composite_sources(name, typed.spaces, hidden)] + noise * rng.standard_normal(ours.shape)
        units = int(np.prod(shape))
        ours, theirs = (each.reshape(units, -1) for each in (ours, theirs))
        found[name] = np.corrcoef(ours, theirs)
    return found
