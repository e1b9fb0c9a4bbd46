"""Transport along permutations, for every way in which spaces can depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmerge.errors import StructureError
from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout
from onnxmerge.units.permutations import compose, identity, invert, random_permutations, transport

SPACES = {
    space.id: space
    for space in [
        Space("g", 3),
        Space("h", 2, ("g",)),
        Space("d", 4, ("g", "h")),
        Space("i", 5, ("g",)),
        Space("x", 3, (), "graph input"),
        Space("c", 4, ("x",)),
        Space("n", 6),
    ]
}

AXES = {
    "plain": ["n", "x"],
    "square": ["n", "n"],
    "group norm stream": ["g i", "g i"],
    "grouped convolution": ["g h", "i", "x"],
    "expert": ["g", "i", "n"],
    "inner before outer": ["i", "n", "g"],
    "three levels": ["g h d", "n"],
    "three levels, apart": ["d", "h", "g"],
    "three levels, crossed": ["n", "g h", "d"],
    "fixed outer": ["x c", "n"],
    "both ways": ["g d", "h i"],
    "scalar": [],
}


def whole(name: str, axes: Sequence[str], spaces: Mapping[str, Space]) -> TensorLayout:
    blocks = []
    for axis in axes:
        names = tuple(axis.split())
        sizes = [spaces[each].size for each in names]
        blocks.append(AxisBlock(names, np.arange(np.prod(sizes, dtype=int)).reshape(sizes)))
    return TensorLayout(name, tuple(axis.positions.size for axis in blocks), (Block(tuple(blocks)),))


def numbered(layout: TensorLayout) -> np.ndarray:
    return np.arange(np.prod(layout.shape, dtype=int)).reshape(layout.shape)


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_inverse_gives_the_array_back(axes: list[str], seed: int) -> None:
    layout = whole("w", axes, SPACES)
    array = numbered(layout)
    perms = random_permutations(SPACES, seed)
    there = transport(array, layout, SPACES, perms)
    back = transport(there, layout, SPACES, invert(perms, SPACES))
    np.testing.assert_array_equal(back, array)
    assert there.shape == array.shape


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@settings(max_examples=30)
@given(seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)))
def test_composition_is_one_transport_after_the_other(axes: list[str], seeds: tuple[int, int]) -> None:
    layout = whole("w", axes, SPACES)
    first, then = (random_permutations(SPACES, seed) for seed in seeds)
    array = numbered(layout)
    twice = transport(transport(array, layout, SPACES, first), layout, SPACES, then)
    np.testing.assert_array_equal(transport(array, layout, SPACES, compose(first, then, SPACES)), twice)


def test_composition_with_inverse_is_identity() -> None:
    perms = random_permutations(SPACES, 5)
    for composed in (
        compose(perms, invert(perms, SPACES), SPACES),
        compose(invert(perms, SPACES), perms, SPACES),
    ):
        for name, expected in identity(SPACES).items():
            np.testing.assert_array_equal(composed[name], expected)


def test_composition_fills_in_what_one_side_leaves_alone() -> None:
    perms = random_permutations(SPACES, 6)
    some = {"g": perms["g"], "n": perms["n"]}
    rest = {"h": perms["h"], "d": perms["d"]}
    layout = whole("w", ["n", "g h d"], SPACES)
    array = numbered(layout)
    twice = transport(transport(array, layout, SPACES, some), layout, SPACES, rest)
    np.testing.assert_array_equal(transport(array, layout, SPACES, compose(some, rest, SPACES)), twice)


def test_grouped_convolution_reads_inner_inputs_of_the_target_group() -> None:
    layout = whole("w", ["g h", "i"], SPACES)
    perms = random_permutations(SPACES, 3)
    array = numbered(layout).reshape(3, 2, 5)
    out = transport(array.reshape(6, 5), layout, SPACES, perms).reshape(3, 2, 5)
    for g in range(3):
        for h in range(2):
            for i in range(5):
                assert out[g, h, i] == array[perms["g"][g], perms["h"][g, h], perms["i"][g, i]]


def test_dependence_binds_to_the_outer_space_on_the_own_axis() -> None:
    layout = whole("w", ["g i", "g i"], SPACES)
    perms = random_permutations(SPACES, 4)
    source = (perms["g"][:, None] * 5 + perms["i"]).reshape(-1)
    array = numbered(layout)
    np.testing.assert_array_equal(transport(array, layout, SPACES, perms), array[np.ix_(source, source)])


def test_blocks_move_within_themselves() -> None:
    """Fused q | k | v, where each third has an inner space of its own."""
    spaces = {"h": Space("h", 2), **{name: Space(name, 3, ("h",)) for name in "qkv"}, "n": Space("n", 4)}
    columns = AxisBlock(("n",), np.arange(4))
    blocks = tuple(
        Block((AxisBlock(("h", name), np.arange(6).reshape(2, 3) + 6 * third), columns))
        for third, name in enumerate("qkv")
    )
    layout = TensorLayout("qkv", (18, 4), blocks)
    perms = random_permutations(spaces, 1)
    array = numbered(layout)
    out = transport(array, layout, spaces, perms)
    for third, name in enumerate("qkv"):
        rows = 6 * third + (perms["h"][:, None] * 3 + perms[name]).reshape(-1)
        np.testing.assert_array_equal(out[6 * third : 6 * third + 6], array[np.ix_(rows, perms["n"])])


def test_scattered_positions() -> None:
    """An axis stored inner-major, in two interleaved blocks."""
    spaces = {"a": Space("a", 3), "b": Space("b", 2, ("a",)), "x": Space("x", 6, (), "output")}
    inner = AxisBlock(("a", "b"), np.arange(0, 12, 2).reshape(2, 3).T)
    rest = AxisBlock(("x",), np.arange(1, 12, 2))
    layout = TensorLayout("w", (12,), (Block((inner,)), Block((rest,))))
    perms = random_permutations(spaces, 1)
    array = numbered(layout)
    out = transport(array, layout, spaces, perms)
    np.testing.assert_array_equal(out[1::2], array[1::2])
    source = inner.positions[perms["a"][:, None], perms["b"]]
    np.testing.assert_array_equal(out[inner.positions], array[source])
    np.testing.assert_array_equal(transport(out, layout, spaces, invert(perms, spaces)), array)


def test_nothing_to_move_returns_the_array_itself() -> None:
    layout = whole("w", ["n", "x"], SPACES)
    array = numbered(layout)
    assert transport(array, layout, SPACES, {"g": np.array([2, 0, 1])}) is array


def test_shape_mismatch_names_the_tensor() -> None:
    layout = whole("weight", ["n", "x"], SPACES)
    with pytest.raises(StructureError, match="tensor weight"):
        transport(np.zeros((2, 2)), layout, SPACES, identity(SPACES))


@pytest.mark.parametrize("axes", [["i", "n"], ["g n", "g", "i"]], ids=["absent", "ambiguous"])
def test_unbound_dependence_is_an_error(axes: list[str]) -> None:
    layout = whole("w", axes, SPACES)
    with pytest.raises(StructureError, match="i varies with g"):
        transport(numbered(layout), layout, SPACES, identity(SPACES))
