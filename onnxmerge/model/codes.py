"""How integers stand for the numbers of a weight: (code - zero point) x scale, by tensor, along an axis or in blocks.

The scheme of ONNX (DequantizeLinear) and that of com.microsoft (MatMulNBits) differ in how codes lie in memory only.
Every weight is looked at as [blocks, elements], where the elements of a block share a scale and a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from onnxmerge.errors import InputError
from onnxmerge.types import Array

KEPT = 1e-3
"""A block whose numbers moved by no more than this part of a step keeps its codes, scale and zero point."""

_TYPES: dict[str, tuple[int, int]] = {
    f"{sign}int{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if not sign else (0, (1 << bits) - 1)
    for bits in (2, 4, 8, 16, 32)
    for sign in ("", "u")
    if (sign, bits) != ("u", 32)
}
"""The least and the greatest number of each type that codes are of."""


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest code of a type. Raises KeyError for one that codes are not of."""
    return _TYPES[dtype.name]


def is_codes(dtype: np.dtype[Any]) -> bool:
    """Whether codes may be of a type."""
    return dtype.name in _TYPES


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A weight by blocks: codes [blocks, elements], scale and zero point [blocks]; ``least``, ``most``: of any code."""

    codes: Array
    scale: Array
    zero: Array
    least: int
    most: int

    def numbers(self) -> Array:
        """What it stands for, [blocks, elements], rounded as ONNX Runtime does it."""
        wide = np.promote_types(self.scale.dtype, np.float32)
        steps = self.codes.astype(wide) - self.zero.astype(wide)[:, None]
        found: Array = (steps * self.scale.astype(wide)[:, None]).astype(self.scale.dtype)
        return found


class Form(Protocol):
    """How codes, scales and zero points lie in the tensors of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight as the network uses it."""

    def read(self, codes: Array, scale: Array, zero: Array | None) -> Blocks:
        """The blocks of what is stored."""

    def split(self, numbers: Array) -> Array:
        """Numbers as the network uses them, [blocks, elements]."""

    def whole(self, blocks: Array) -> Array:
        """The reverse of ``split``."""

    def movable(self, scale: Array, zero: Array | None) -> bool:
        """Whether a zero point is stored for every block."""

    def write(self, blocks: Blocks, scale: Array, zero: Array | None) -> tuple[Array, Array, Array | None]:
        """Codes, scale and zero point to be stored, in the types and shapes of ``scale`` and ``zero``."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor of ``shape`` with one scale, one for each place of ``axis``, or one for every ``size`` places of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axis: int | None
    size: int = 0

    def read(self, codes: Array, scale: Array, zero: Array | None) -> Blocks:
        flat = self._by_block(scale)
        offsets = np.zeros(1, np.int64) if zero is None else self._by_block(zero).astype(np.int64)
        offsets = np.broadcast_to(offsets, flat.shape)  # QLinearConv and MatMulInteger take one for all channels
        least, most = limits(self.dtype)
        if self.dtype.itemsize == 1:  # four bits and fewer have no arithmetic
            codes = codes.astype(np.int8 if least else np.uint8)
        return Blocks(self.split(codes), flat, offsets, least, most)

    def _by_block(self, values: Array) -> Array:
        found: Array = (values if not self.size or self.axis is None else np.moveaxis(values, self.axis, -1)).reshape(
            -1
        )
        return found

    def split(self, numbers: Array) -> Array:
        if self.axis is None:
            return numbers.reshape(1, -1)
        if self.size:
            return np.moveaxis(numbers, self.axis, -1).reshape(-1, self.size)
        return np.moveaxis(numbers, self.axis, 0).reshape(self.shape[self.axis], -1)

    def whole(self, blocks: Array) -> Array:
        if self.axis is None:
            return blocks.reshape(self.shape)
        place = -1 if self.size else 0
        moved = np.moveaxis(np.empty(self.shape, np.int8), self.axis, place).shape
        return np.moveaxis(blocks.reshape(moved), place, self.axis)

    def movable(self, scale: Array, zero: Array | None) -> bool:
        return zero is not None and zero.size == scale.size

    def write(self, blocks: Blocks, scale: Array, zero: Array | None) -> tuple[Array, Array, Array | None]:
        if zero is not None and not self.movable(scale, zero):
            return self.whole(blocks.codes).astype(self.dtype), self._stored(blocks.scale, scale), zero
        codes = self.whole(blocks.codes).astype(self.dtype)
        return codes, self._stored(blocks.scale, scale), None if zero is None else self._stored(blocks.zero, zero)

    def _stored(self, values: Array, like: Array) -> Array:
        if self.size and self.axis is not None:
            moved = np.moveaxis(np.empty(like.shape, np.int8), self.axis, -1).shape
            values = np.moveaxis(values.reshape(moved), -1, self.axis)
        stored: Array = values.reshape(like.shape).astype(like.dtype)
        return stored


@dataclass(frozen=True, slots=True)
class NBits:
    """MatMulNBits: a weight [inputs, outputs] stored [outputs, blocks, bytes], ``size`` inputs a block, low bits first.

    Zero points are packed too, or floats; without them they are the middle, 2 ** (bits - 1).
    """

    bits: int
    size: int
    inputs: int
    outputs: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs, self.outputs

    @property
    def _blocks(self) -> int:
        return -(-self.inputs // self.size)

    def read(self, codes: Array, scale: Array, zero: Array | None) -> Blocks:
        count = self.outputs * self._blocks
        found = self._unpacked(codes.reshape(count, -1), self.size)
        middle = 1 << (self.bits - 1)
        if zero is None:
            offsets = np.full(count, middle, np.int64)
        elif zero.dtype == np.uint8:
            offsets = self._unpacked(zero.reshape(self.outputs, -1), self._blocks).reshape(-1).astype(np.int64)
        else:
            offsets = zero.reshape(-1).astype(np.float64)
        return Blocks(found, scale.reshape(-1), offsets, 0, 2 * middle - 1)

    def split(self, numbers: Array) -> Array:
        padded = np.zeros((self.outputs, self._blocks * self.size), numbers.dtype)
        padded[:, : self.inputs] = numbers.T
        return padded.reshape(-1, self.size)

    def whole(self, blocks: Array) -> Array:
        return blocks.reshape(self.outputs, -1)[:, : self.inputs].T

    def movable(self, scale: Array, zero: Array | None) -> bool:  # noqa: ARG002
        return zero is not None

    def write(self, blocks: Blocks, scale: Array, zero: Array | None) -> tuple[Array, Array, Array | None]:
        codes = self._packed(blocks.codes).reshape(self.outputs, self._blocks, -1)
        stored = None
        if zero is not None and zero.dtype == np.uint8:
            stored = self._packed(blocks.zero.reshape(self.outputs, -1)).reshape(zero.shape)
        elif zero is not None:
            stored = blocks.zero.reshape(zero.shape).astype(zero.dtype)
        return codes, blocks.scale.reshape(scale.shape).astype(scale.dtype), stored

    def _unpacked(self, packed: Array, count: int) -> Array:
        """The numbers in rows of bytes, the first ``count`` of each row."""
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        parts = (packed[:, :, None] >> shifts) & ((1 << self.bits) - 1)
        return parts.reshape(len(packed), -1)[:, :count].astype(np.uint8)

    def _packed(self, numbers: Array) -> Array:
        """The reverse of ``_unpacked``; what a last byte has room for is 0."""
        per_byte = 8 // self.bits
        rows, count = numbers.shape
        padded = np.zeros((rows, -(-count // per_byte) * per_byte), np.uint8)
        padded[:, :count] = numbers
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        found: Array = np.bitwise_or.reduce(padded.reshape(rows, -1, per_byte) << shifts, axis=-1)
        return found


def coded(weight: Array, form: Form, before: Blocks, *, movable: bool, name: str, floor: Array | float = 0.0) -> Blocks:
    """A weight in codes as ``before`` has them: symmetric or not, of as many bits, as clipped.

    Scales are the least that hold every number; a block that stands for the same numbers as before (``KEPT``) is left
    as it is, so that codes of what codes stand for are the codes. ``movable``: a zero point may be stored. ``floor`` is
    what no scale may be below, [blocks] or one.

    Raises InputError for numbers that are not finite, or below what codes without a zero point reach.
    """
    if not np.isfinite(weight).all():
        raise InputError(
            f"initializer {name!r}: the merged weight is not finite, so it cannot be quantised; try another method"
        )
    wide = np.promote_types(np.float64 if before.codes.dtype.itemsize > 2 else np.float32, weight.dtype)
    numbers = form.split(weight).astype(wide)
    old = form.split(form.whole(before.numbers()))  # what fills the last block up counts for nothing
    steps = np.abs(before.scale.astype(np.float64))
    kept: Array = (np.abs(numbers - old).max(axis=1, initial=0) <= KEPT * steps) & (steps >= floor)
    if kept.all():
        return before
    middle = (before.least + before.most + 1) // 2
    fixed = not movable or bool((before.zero == middle).all())
    if fixed and ((before.zero == before.least) & ~kept & (numbers.min(axis=1, initial=0) < -steps)).any():
        raise InputError(
            f"initializer {name!r}: the merged weight has numbers below 0, which its integers have no zero point for; "
            "add --output-type float, and quantise the result"
        )
    scale, zero = (_fixed if fixed else _moved)(numbers, before)
    smallest = float(ml_dtypes.finfo(before.scale.dtype).smallest_normal)  # type: ignore[no-untyped-call]
    scale = np.where(np.abs(scale) < smallest, before.scale.astype(np.float64), scale)
    scale = np.where(np.abs(scale) < smallest, 1.0, scale)  # a block of zeros, before and after
    scale = np.where(np.abs(scale) < floor, floor, scale)
    scale = np.where(kept, before.scale, scale.astype(before.scale.dtype))
    zero = np.where(kept, before.zero, zero)
    numbers /= np.where(scale == 0, 1, scale).astype(wide)[:, None]  # 0: of a block that is kept
    if zero.dtype.kind != "f":
        np.rint(numbers, out=numbers)
    numbers += zero.astype(wide)[:, None]
    codes = np.rint(numbers.clip(before.least, before.most)).astype(before.codes.dtype)
    return Blocks(np.where(kept[:, None], before.codes, codes), scale, zero, before.least, before.most)


def _fixed(numbers: Array, before: Blocks) -> tuple[Array, Array]:
    """Scales for zero points that stay: as far on either side as codes went before, rounded up to whole bits."""
    zero = before.zero.astype(np.float64)
    if (before.scale < 0).any():  # the sign says which side reaches to the end, as MatMulNBits quantises
        extreme = np.take_along_axis(numbers, np.abs(numbers).argmax(axis=1)[:, None], axis=1)[:, 0]
        return extreme / (before.least - zero), before.zero
    ends = np.stack([before.codes.max(axis=1), before.codes.min(axis=1)]).astype(np.float64)
    bits = max(1, int(np.ceil(np.log2(np.abs(ends - zero).max(initial=1)))))
    far = 2.0**bits - 1
    above, below = (ends[0] - zero).max(initial=far), (zero - ends[1]).max(initial=far)  # -8 of four bits, say
    up, down = np.minimum(before.most - zero, above), np.minimum(zero - before.least, below)
    high, low = _reach(numbers)
    return np.maximum(_per(high, up), _per(-low, down)), before.zero


def _moved(numbers: Array, before: Blocks) -> tuple[Array, Array]:
    """Scales and zero points for blocks that reach from their least number to their greatest, 0 included."""
    least, most, greatest = before.least, before.most, int(before.codes.max())
    while least >= 0 and most > 1 and greatest <= most // 2:  # fewer bits than the type has
        most //= 2
    high, low = _reach(numbers)
    scale = (high - low) / (most - least)
    zero = (least - _per(low, scale)).clip(least, most)
    return scale, zero if before.zero.dtype.kind == "f" else np.rint(zero).astype(np.int64)


def _reach(numbers: Array) -> tuple[Array, Array]:
    """The greatest and the least number of each block, 0 included."""
    high, low = numbers.max(axis=1, initial=0), numbers.min(axis=1, initial=0)
    return high.astype(np.float64), low.astype(np.float64)


def _per(numbers: Array, steps: Array) -> Array:
    found: Array = np.divide(numbers, steps, out=np.zeros_like(numbers), where=steps > 0)
    return found
