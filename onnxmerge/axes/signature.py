"""The notation of operator signatures, and how one is applied to a node.

A signature gives each operand's axes in an einops-like notation::

    Conv:
      inputs:  {X: n (g i) *s, W: (g o) i *k, B: (g o)}
      outputs: {Y: n (g o) *t}
      sizes:   {g: group}
      fixed:   {s: spatial positions, k: kernel taps, t: spatial positions}

A letter is one axis, ``(g i)`` one axis that factors row-major into two, ``*s`` any number of axes. The same letter in
two operands means the same units. Axes under one star are aligned from the right and broadcast, as in NumPy. A number
is a factor of that size whose positions have a meaning (the four gates of an LSTM): it is fixed.
``sizes`` names the attribute that gives a letter's size, ``fixed`` the letters that must never move and why,
``mixes`` the letters over which the operator computes a statistic, so that no other letter may vary with them,
``contracts`` letters over which it adds up products although another output hands them on (a cache of keys), and
``from_axis`` the attribute from which on a star begins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxmerge.axes.cells import Cells
from onnxmerge.errors import InputError

NEUTRAL = -1
"""An axis along which the tensor is uniform: nothing there can be told apart, so it constrains nothing."""

Axes = tuple[int, ...]
"""One cell for each axis of a tensor; ``NEUTRAL`` where it is uniform."""

_TERM = re.compile(r"\(([^()]*)\)|(\*?[A-Za-z_]\w*|\d+)")


class SignatureError(InputError):
    """A signature cannot be read (exit code 1)."""


class MisfitError(Exception):
    """A node does not have the form that its signature describes; its axes are fixed."""


@dataclass(frozen=True, slots=True)
class Term:
    """One axis (one letter or several factors), or a star over any number of axes."""

    letters: tuple[str, ...]
    star: bool = False


Pattern = tuple[Term, ...]


def parse_pattern(text: str) -> Pattern:
    """Read ``"n (g i) *s"``. Raises SignatureError with the place that cannot be read."""
    terms: list[Term] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TERM.match(text, position)
        if match is None:
            raise SignatureError(
                f"cannot read the pattern {text!r} at {text[position:]!r}: expected a letter, (a b) or *s"
            )
        product, name = match.groups()
        if product is not None:
            terms.append(Term(tuple(product.split())))
        elif name.startswith("*"):
            terms.append(Term((name[1:],), star=True))
        else:
            terms.append(Term((name,)))
        position = match.end()
    return tuple(terms)


@dataclass(frozen=True, slots=True)
class Signature:
    """The letters of an operator. ``inputs`` and ``outputs`` are positional; None marks a slot without units."""

    inputs: tuple[Pattern | None, ...]
    outputs: tuple[Pattern | None, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    mixes: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ()
    star_ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Application:
    """What applying a signature yields besides unified cells.

    ``outputs``: axes of each output. ``hidden``: the cells that intermediate tensors carry: the product of all
    operands before a contraction sums over it, and the statistics that ``mixes`` names.
    ``contracted``: for each input, the cells that it shares with another input and that no output carries.
    ``summed``: for each input, the (axis, cell) along which products with another operand are added up: those of
    ``contracted``, and the axis of a recurrent matrix that meets the state.
    """

    outputs: tuple[Axes | None, ...]
    hidden: tuple[Axes, ...]
    contracted: tuple[Axes, ...]
    summed: tuple[tuple[tuple[int, int], ...], ...] = ()


@dataclass(slots=True)
class _Binding:
    """The letters of one node: sizes, and the cells met under each letter."""

    sizes: dict[str, int]
    cells: dict[str, list[int]] = field(default_factory=dict)

    def size_of(self, letter: str) -> int | None:
        return int(letter) if letter.isdigit() else self.sizes.get(letter)

    def learn(self, letter: str, size: int) -> bool:
        """Record a size; broadcast axes of size 1 give way. Returns whether something new was learnt."""
        known = self.sizes.get(letter)
        if known is None or (known == 1 and size != 1):
            self.sizes[letter] = size
            return known is None or known != size
        if size not in (1, known):
            raise MisfitError(f"{letter} is {known} and {size}")
        return False


def _expand(pattern: Pattern, rank: int, star_ranks: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Replace stars by numbered letters (counted from the right), one entry for each axis of a tensor of this rank."""
    plain = sum(not term.star for term in pattern)
    stars = [term.letters[0] for term in pattern if term.star]
    known = {name: star_ranks[name] for name in stars if name in star_ranks}
    open_stars = [name for name in stars if name not in known]
    left = rank - plain - sum(known.values())
    if left < 0 or (left > 0 and not open_stars) or len(open_stars) > 1:
        raise MisfitError(f"rank {rank}")
    axes: list[tuple[str, ...]] = []
    for term in pattern:
        if term.star:
            count = known.get(term.letters[0], left)
            axes.extend((f"{term.letters[0]}.{count - 1 - index}",) for index in range(count))
        else:
            axes.append(term.letters)
    return axes


def _base(letter: str) -> str:
    return letter.partition(".")[0]


def _solve_sizes(binding: _Binding, operands: Iterable[tuple[list[tuple[str, ...]], Sequence[int]]]) -> None:
    operands = list(operands)
    progress = True
    while progress:
        progress = False
        for axes, shape in operands:
            for letters, size in zip(axes, shape, strict=True):
                unknown = [letter for letter in letters if binding.size_of(letter) is None]
                if len(letters) == 1 and not letters[0].isdigit():
                    progress |= binding.learn(letters[0], size)
                elif len(unknown) == 1:
                    known = math.prod(binding.size_of(letter) or 1 for letter in letters if letter != unknown[0])
                    if size % known:
                        raise MisfitError(f"{size} is no multiple of {known}")
                    progress |= binding.learn(unknown[0], size // known)


def apply(
    signature: Signature,
    cells: Cells,
    operands: Sequence[Axes | None],
    shapes: Sequence[tuple[int, ...] | None],
    output_shapes: Sequence[tuple[int, ...] | None],
) -> Application:
    """Unify the cells of one node's operands and make those of its outputs.

    Raises MisfitError, before anything is unified, where the node does not have the form of the signature.
    """
    binding = _Binding(dict(signature.sizes))
    bound: list[tuple[int, list[tuple[str, ...]], Axes, tuple[int, ...]]] = []
    for index, (pattern, axes, shape) in enumerate(zip(signature.inputs, operands, shapes, strict=False)):
        if pattern is not None and (axes is None) != (shape is None):
            raise MisfitError(f"input {index} has no known shape")
        if pattern is not None and axes is not None and shape is not None:
            bound.append((index, _expand(pattern, len(shape), signature.star_ranks), axes, shape))
    outputs = [
        None if pattern is None or shape is None else _expand(pattern, len(shape), signature.star_ranks)
        for pattern, shape in zip(signature.outputs, output_shapes, strict=False)
    ]
    _solve_sizes(binding, ((letters, shape) for _, letters, _, shape in bound))
    for _, letters, axes, shape in bound:
        _bind_operand(cells, binding, letters, axes, shape)
    for letter, found in binding.cells.items():
        real = [cell for cell in found if cell != NEUTRAL]
        for cell in real[1:]:
            cells.unify(real[0], cell)
        reason = signature.fixed.get(_base(letter))
        for cell in real[:1] if reason is not None else ():
            cells.fix(cell, reason or "")
    made = tuple(
        None if axes is None or shape is None else _output_axes(signature, cells, binding, axes, shape)
        for axes, shape in zip(outputs, output_shapes, strict=False)
    )
    kept = {letter for axes in outputs if axes is not None for letters in axes for letter in letters}
    kept -= {*signature.contracts}
    contracted = _contracted(binding, bound, kept, len(operands))
    return Application(
        made, _hidden(signature, binding, kept), contracted, _summed(binding, bound, kept, len(operands))
    )


def _bind_operand(
    cells: Cells,
    binding: _Binding,
    axis_letters: list[tuple[str, ...]],
    axes: Axes,
    shape: tuple[int, ...],
) -> None:
    for letters, cell, size in zip(axis_letters, axes, shape, strict=True):
        if len(letters) == 1:
            if size == 1 and binding.sizes.get(letters[0], 1) != 1:
                continue
            binding.cells.setdefault(letters[0], []).append(cell)
            continue
        sizes = [binding.size_of(letter) for letter in letters]
        if any(s is None for s in sizes) or math.prod(s or 1 for s in sizes) != size:
            if size == 1:
                continue
            raise MisfitError(f"an axis of {size} does not factor as {' '.join(letters)}")
        factors = [NEUTRAL] * len(letters) if cell == NEUTRAL else cells.split(cell, [s or 1 for s in sizes])
        for letter, factor in zip(letters, factors, strict=True):
            if letter.isdigit() and factor != NEUTRAL:
                cells.fix(factor, "positions with a meaning")
            binding.cells.setdefault(f"#{letter}" if letter.isdigit() else letter, []).append(factor)


def _output_axes(
    signature: Signature, cells: Cells, binding: _Binding, axis_letters: list[tuple[str, ...]], shape: tuple[int, ...]
) -> Axes:
    made: list[int] = []
    for letters, size in zip(axis_letters, shape, strict=True):
        if len(letters) == 1:
            made.append(_letter_cell(signature, cells, binding, letters[0], size))
            continue
        sizes = [binding.size_of(letter) for letter in letters]
        if any(s is None for s in sizes) or math.prod(s or 1 for s in sizes) != size:
            made.append(cells.new_fixed(size, f"no factorisation as {' '.join(letters)}"))
            continue
        found = [
            _letter_cell(signature, cells, binding, letter, s or 1) for letter, s in zip(letters, sizes, strict=True)
        ]
        if all(cell == NEUTRAL for cell in found):
            made.append(NEUTRAL)
        else:
            made.append(
                cells.product(
                    cells.new(s or 1) if cell == NEUTRAL else cell for cell, s in zip(found, sizes, strict=True)
                )
            )
    return tuple(made)


def _letter_cell(signature: Signature, cells: Cells, binding: _Binding, letter: str, size: int) -> int:
    if size == 1:
        return cells.new(1)
    found = binding.cells.get(f"#{letter}" if letter.isdigit() else letter, [])
    real = [cell for cell in found if cell != NEUTRAL]
    if real:
        return real[0] if cells.size(real[0]) == size else cells.new_fixed(size, "an axis whose size changes")
    reason = signature.fixed.get(_base(letter))
    if found and reason is None and not letter.isdigit():
        return NEUTRAL  # where positions have a meaning, a uniform input need not give a uniform output
    cell = cells.new(size) if reason is None and not letter.isdigit() else cells.new_fixed(size, reason or "positions")
    binding.cells.setdefault(letter, []).append(cell)
    return cell


def _hidden(signature: Signature, binding: _Binding, kept: set[str]) -> tuple[Axes, ...]:
    """What the operator computes on the way, one axis for each letter.

    The product before a contraction matters where one space stands under two letters: in W[i, k] R[k, j] with i and
    j the same units, k stands beside them in both operands and yet may not vary with them.
    """
    found = {letter: next((c for c in each if c != NEUTRAL), NEUTRAL) for letter, each in binding.cells.items()}
    hidden = []
    if found.keys() - kept:
        hidden.append(tuple(found.values()))
    if signature.mixes:
        mixed = set(signature.mixes)
        hidden.append(tuple(cell for letter, cell in found.items() if not {letter, _base(letter)} & mixed))
    return tuple(hidden)


def _contracted(
    binding: _Binding,
    bound: Sequence[tuple[int, list[tuple[str, ...]], Axes, tuple[int, ...]]],
    kept: set[str],
    count: int,
) -> tuple[Axes, ...]:
    owners: dict[str, list[int]] = {}
    for index, axes, _, _ in bound:
        for letters in axes:
            for letter in letters:
                owners.setdefault(letter, []).append(index)
    contracted: list[list[int]] = [[] for _ in range(count)]
    for letter, indices in owners.items():
        cell = next((c for c in binding.cells.get(letter, []) if c != NEUTRAL), NEUTRAL)
        if letter not in kept and len(set(indices)) > 1 and cell != NEUTRAL:
            for index in indices:
                contracted[index].append(cell)
    return tuple(tuple(found) for found in contracted)


def _summed(
    binding: _Binding,
    bound: Sequence[tuple[int, list[tuple[str, ...]], Axes, tuple[int, ...]]],
    kept: set[str],
    count: int,
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The axes of each input over which the operator sums.

    A letter that stands twice in one operand (R: d (4 h) h) is the state on one side, summed over, and the units that
    are made of it on the other, where it stands with the gates; without gates it is the later one.
    """
    owners: dict[str, set[int]] = {}
    for index, axes, _, _ in bound:
        for letter in {letter for letters in axes for letter in letters}:
            owners.setdefault(letter, set()).add(index)
    summed: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for index, axes, _, _ in bound:
        for letter in dict.fromkeys(letter for letters in axes for letter in letters):
            cell = next((c for c in binding.cells.get(letter, []) if c != NEUTRAL), NEUTRAL)
            places = [axis for axis, letters in enumerate(axes) if letter in letters]
            if letter in kept or len(owners[letter]) < 2:
                alone = [axis for axis in places if axes[axis] == (letter,)]
                places = alone[-1:] if len(places) > 1 else []
            if cell != NEUTRAL:
                summed[index].extend((axis, cell) for axis in places)
    return tuple(tuple(found) for found in summed)
