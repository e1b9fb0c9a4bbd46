"""The operator table: specs/operators/*.yaml, read and checked.

Each entry says in one of six ways how an operator treats its axes:

- ``elementwise``: all operands broadcast together; every axis passes. ``mixes_axis``, ``mixes_from`` or ``mixes_axes``
  name the attribute that says over which axes a statistic is taken (Softmax, LpNormalization).
- ``rule: NAME``: a Python rule in ``axes.rules``.
- ``reads_shape``: only the shape of the operand is looked at.
- ``frozen: REASON``: deliberately fixed.
- a signature (``inputs``, ``outputs`` and so on, see ``axes.signature``).
  ``transpose`` names the attribute that swaps an operand's last two axes, ``broadcast`` operands that may lack leading
  axes, ``statistics`` operands that hold running statistics. ``slides: [s, k, t]`` says that windows of taps ``k``
  slide over ``s`` and give ``t``: where a window is one position wide, the axis passes; elsewhere positions are fixed.
- a list of such entries. ``until: OPSET`` limits an entry to older operator sets, ``when: {ATTRIBUTE: VALUE}`` to nodes
  with these attributes (``defaults`` gives values that a node need not set), ``unused: [OUTPUT]`` to nodes of which
  nobody reads these outputs; the first entry that fits a node holds.

``traits`` are for other stages: see ``model.traits``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules import RULES
from onnxmerge.axes.rules.contraction import apply_signature
from onnxmerge.axes.signature import Axes, MisfitError, Pattern, Signature, SignatureError, Term, parse_pattern
from onnxmerge.documents import read_yaml
from onnxmerge.model.traits import KEY, described
from onnxmerge.text import shown

_KINDS = ("elementwise", "rule", "reads_shape", "frozen", "inputs")
_KEYS = {
    *_KINDS, "outputs", "sizes", "fixed", "mixes", "contracts", "mixes_axis", "mixes_from", "mixes_axes", "from_axis",
    "transpose", "broadcast", "statistics", "slides", "until", "when", "unused", "defaults", "note",
}  # fmt: skip
_FIXED_BY_SLIDING = ("positions that a window slides over", "taps of a window", "positions of a window")
_NUMPY_BROADCAST = 7
WHOLE = "whole"
"""The letter of operands that are read as a whole (``-``)."""

_STAR: Pattern = (Term(("b",), star=True),)


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """One entry of the table, valid up to opset ``until`` (None: to the newest)."""

    name: str
    until: int | None = None
    elementwise: bool = False
    rule: str | None = None
    reads_shape: bool = False
    frozen: str | None = None
    inputs: Mapping[str, Pattern | None] = field(default_factory=dict)
    outputs: Mapping[str, Pattern | None] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    mixes: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ()
    mixes_axis: str | None = None
    mixes_from: str | None = None
    mixes_axes: str | None = None
    from_axis: Mapping[str, str] = field(default_factory=dict)
    transpose: Mapping[str, str] = field(default_factory=dict)
    broadcast: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    slides: tuple[str, ...] = ()
    when: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def suits(self, context: NodeContext) -> bool:
        """Whether the node has the attributes that the entry is for. One that is nowhere set counts as 0 or empty."""
        for name, wanted in self.when.items():
            found = self._attribute(context, name)
            if (found or 0) != (wanted or 0):
                return False
        outputs = list(self.outputs)
        return not any(context.is_used(outputs.index(name)) for name in self.unused)

    def _attribute(self, context: NodeContext, name: str, default: Any = None) -> Any:
        return context.text(name, self.defaults.get(name, default))

    def apply(self, context: NodeContext) -> tuple[Axes | None, ...]:
        """Type one node. Raises MisfitError where the node does not have the described form."""
        if self.rule is not None:
            return RULES[self.rule](context)
        if self.frozen is not None:
            return context.freeze(self.frozen)
        if self.reads_shape:
            return context.fresh_fixed("computed from shapes")
        return apply_signature(context, self._elementwise(context) if self.elementwise else self._signature(context))

    def statistic_inputs(self) -> tuple[int, ...]:
        """Positions of inputs that hold running statistics."""
        names = list(self.inputs)
        return tuple(names.index(name) for name in self.statistics)

    def _elementwise(self, context: NodeContext) -> Signature:
        signature = Signature((_STAR,) * len(context.node.inputs), (_STAR,) * len(context.node.outputs))
        shape = context.shape(0)
        if context.opset < _NUMPY_BROADCAST and "broadcast" in context.node.attributes:
            raise MisfitError("broadcasting along an attribute")
        if shape is None:
            return signature
        rank = len(shape)
        mixed: list[int] = []
        if self.mixes_axis is not None:
            mixed = [context.axis(rank, -1, self.mixes_axis)]
        elif self.mixes_from is not None:
            mixed = list(range(context.axis(rank, 1, self.mixes_from), rank))
        elif self.mixes_axes is not None:
            mixed = [axis % rank for axis in context.attribute(self.mixes_axes, list(range(rank)))]
        return replace(signature, mixes=tuple(f"b.{rank - 1 - axis}" for axis in mixed))

    def _signature(self, context: NodeContext) -> Signature:
        inputs = [self._operand(context, name, index) for index, name in enumerate(self.inputs)]
        outputs = list(self.outputs.values())
        shape = context.shape(0)
        star_ranks = {
            star: len(shape) - context.axis(len(shape), -1, attribute)
            for star, attribute in self.from_axis.items()
            if shape is not None
        }
        sizes = {letter: int(self._attribute(context, attribute, 1)) for letter, attribute in self.sizes.items()}
        fixed = {**self.fixed, **{f"{WHOLE}_{name}": "an operand that is read as a whole" for name in self.inputs}}
        if len(context.node.inputs) > len(inputs):
            raise MisfitError(f"{len(context.node.inputs)} operands where {len(inputs)} are described")
        if self.slides:
            terms = self._window(context)
            inputs = [None if pattern is None else _replace_stars(pattern, terms) for pattern in inputs]
            outputs = [None if pattern is None else _replace_stars(pattern, terms) for pattern in outputs]
            fixed.update(zip(self.slides, _FIXED_BY_SLIDING, strict=True))
        return Signature(tuple(inputs), tuple(outputs), sizes, fixed, self.mixes, self.contracts, star_ranks)

    def _window(self, context: NodeContext) -> dict[str, Pattern]:
        """The stars of a sliding window, axis by axis: ``s`` and ``t`` are one letter where nothing slides."""
        over, taps, gives = self.slides
        kernel = context.attribute("kernel_shape") or self._kernel(context, taps)
        if kernel is None:
            raise MisfitError("no kernel of known shape")
        rank = len(kernel)
        still = []
        for axis in range(rank):
            padded = [(context.attribute("pads") or [0] * 2 * rank)[axis + end] for end in (0, rank)]
            padded.append((context.attribute("output_padding") or [0] * rank)[axis])
            stride = (context.attribute("strides") or [1] * rank)[axis]
            still.append(kernel[axis] == stride == 1 and not any(padded))
        return {
            over: tuple(Term((f"still.{axis}" if still[axis] else f"{over}.{axis}",)) for axis in range(rank)),
            taps: tuple(Term((f"{taps}.{axis}",)) for axis in range(rank)),
            gives: tuple(Term((f"still.{axis}" if still[axis] else f"{gives}.{axis}",)) for axis in range(rank)),
        }

    def _kernel(self, context: NodeContext, taps: str) -> tuple[int, ...] | None:
        """The sizes of the taps in the operand that has them."""
        for index, pattern in enumerate(self.inputs.values()):
            shape, star = context.shape(index), Term((taps,), star=True)
            if pattern is not None and shape is not None and star in pattern:
                begin, after = pattern.index(star), len(pattern) - pattern.index(star) - 1
                return shape[begin : len(shape) - after]
        return None

    def _operand(self, context: NodeContext, name: str, index: int) -> Pattern | None:
        pattern, shape = self.inputs[name], context.shape(index)
        if pattern is None or shape is None:
            return None
        if name in self.transpose and context.attribute(self.transpose[name], 0):
            return (*pattern[:-2], pattern[-1], pattern[-2])
        return pattern[len(pattern) - len(shape) :] if name in self.broadcast else pattern


OperatorTable = Mapping[tuple[str, str], tuple[OperatorSpec, ...]]


@cache
def builtin_operators() -> OperatorTable:
    """The operators that onnxmerge describes itself."""
    table: dict[tuple[str, str], tuple[OperatorSpec, ...]] = {}
    for path, document in described().items():
        table.update(_read(path, document, {*_KEYS, KEY}))
    return table


def read_operators(path: Path) -> OperatorTable:
    """Read one file of signatures. Raises InputError naming the file, and SignatureError the operator too."""
    return _read(path, read_yaml(path, "a file of operators"), _KEYS)


def _read(path: str | Path, document: Any, keys: Collection[str]) -> OperatorTable:
    """The operators of a file whose entries may have these ``keys``."""
    if not isinstance(document, dict):
        raise SignatureError(f"{path}: expected a mapping of domains to operators")
    table: dict[tuple[str, str], tuple[OperatorSpec, ...]] = {}
    for domain, operators in document.items():
        if not isinstance(operators, dict):
            raise SignatureError(f"{path}: {domain}: expected a mapping of operators, found {shown(operators)}")
        for name, entry in operators.items():
            variants = entry if isinstance(entry, list) else [entry]
            try:
                specs_ = tuple(_read_entry(str(name), variant, keys) for variant in variants)
            except SignatureError as error:
                raise SignatureError(f"{path}: {domain}::{name}: {error}") from error
            table["" if domain == "ai.onnx" else str(domain), str(name)] = specs_
    return table


def _read_entry(name: str, entry: Any, keys: Collection[str]) -> OperatorSpec:
    if entry == "elementwise":
        return OperatorSpec(name, elementwise=True)
    fields = _checked_fields(entry, keys)
    for side in ("inputs", "outputs"):
        patterns = fields.get(side, {})
        fields[side] = {slot: _read_pattern(str(slot), str(text)) for slot, text in patterns.items()}
    for key in _LISTS:
        fields[key] = tuple(str(item) for item in fields.get(key, ()))
    if len(fields["slides"]) not in {0, 3}:
        raise SignatureError("'slides' takes three letters: over what, with which taps, giving what")
    for side, lists in (("inputs", ("statistics", "broadcast", "transpose")), ("outputs", ("unused",))):
        missing = [slot for key in lists for slot in fields.get(key, ()) if slot not in fields[side]]
        if missing:
            raise SignatureError(f"there is no {side[:-1]} {missing[0]!r}")
    return OperatorSpec(name, **fields)


def _checked_fields(entry: Any, keys: Collection[str]) -> dict[str, Any]:
    """The keys of an entry, once each has a known name and a value of its kind."""
    if not isinstance(entry, dict):
        raise SignatureError(f"expected 'elementwise' or a mapping, found {shown(entry)}")
    unknown = sorted(set(map(str, entry)).difference(keys))
    if unknown:
        raise SignatureError(f"unknown key {shown(unknown[0])}; known are {', '.join(sorted(keys))}")
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise SignatureError(f"expected exactly one of {', '.join(_KINDS)}, found {', '.join(kinds) or 'none'}")
    if "rule" in entry and (not isinstance(entry["rule"], str) or entry["rule"] not in RULES):
        raise SignatureError(f"there is no rule {shown(entry['rule'])}; known are {', '.join(sorted(RULES))}")
    for key, kind in _TYPES.items():
        if key in entry and not isinstance(entry[key], kind):
            raise SignatureError(f"{key!r} must be {_TYPE_NAMES[kind]}, found {shown(entry[key])}")
    return {key: value for key, value in entry.items() if key not in ("note", KEY)}


_LISTS = ("mixes", "contracts", "broadcast", "statistics", "slides", "unused")
_MAPPINGS = ("inputs", "outputs", "sizes", "fixed", "from_axis", "transpose", "when", "defaults")
_TYPES: dict[str, type] = {**dict.fromkeys(_LISTS, list), **dict.fromkeys(_MAPPINGS, dict), "until": int, "frozen": str}
_TYPE_NAMES = {list: "a list", dict: "a mapping", int: "a number", str: "text"}


def _read_pattern(slot: str, text: str) -> Pattern | None:
    """One operand's pattern: ``~`` (None) where nothing but the type is read, ``-`` for what is fixed."""
    if text.strip() == "~":
        return None
    return parse_pattern(f"*{WHOLE}_{slot}" if text.strip() == "-" else text)


def find_operator(table: OperatorTable, domain: str, name: str, opset: int) -> tuple[OperatorSpec, ...]:
    """The entries that may describe an operator at an opset, in order; none if nobody described it."""
    entries = table.get((domain, name), ())
    newest = min((spec.until for spec in entries if spec.until is not None and spec.until >= opset), default=None)
    return tuple(spec for spec in entries if spec.until == newest)


def _replace_stars(pattern: Pattern, terms: Mapping[str, Pattern]) -> Pattern:
    replaced: list[Term] = []
    for term in pattern:
        replaced.extend(terms[term.letters[0]] if term.star and term.letters[0] in terms else (term,))
    return tuple(replaced)
