"""The operator table: specs/operators/*.yaml, read and checked.

Each entry says in one of six ways how an operator treats its axes:

- ``elementwise``: all operands broadcast together; every axis passes. ``mixes_axis``, ``mixes_from`` or ``mixes_axes``
  name the attribute that says over which axes a statistic is taken (Softmax, LpNormalization).
- ``rule: NAME``: a Python rule in ``axes.rules``.
- ``reads_shape``: only the shape of the operand is looked at.
- ``frozen: REASON``: deliberately fixed.
- a signature (``inputs``, ``outputs`` and so on, see ``axes.signature``).
  ``transpose`` names the attribute that swaps an operand's last two axes, ``broadcast`` operands that may lack leading
  axes, ``statistics`` operands that hold running statistics.
- a list of such entries, each but the last with ``until: OPSET``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onnxmerge.axes.rules import RULES
from onnxmerge.axes.rules.contraction import apply_signature
from onnxmerge.axes.signature import Axes, Pattern, Signature, SignatureError, Term, parse_pattern
from onnxmerge.axes.site import Site
from onnxmerge.resources import specs

_KINDS = ("elementwise", "rule", "reads_shape", "frozen", "inputs")
_KEYS = {
    *_KINDS, "outputs", "sizes", "fixed", "mixes", "mixes_axis", "mixes_from", "mixes_axes", "from_axis", "transpose",
    "broadcast", "statistics", "until", "note",
}  # fmt: skip
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
    mixes_axis: str | None = None
    mixes_from: str | None = None
    mixes_axes: str | None = None
    from_axis: Mapping[str, str] = field(default_factory=dict)
    transpose: Mapping[str, str] = field(default_factory=dict)
    broadcast: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    def apply(self, site: Site) -> tuple[Axes | None, ...]:
        """Type one node. Raises MisfitError where the node does not have the described form."""
        if self.rule is not None:
            return RULES[self.rule](site)
        if self.frozen is not None:
            return site.freeze(self.frozen)
        if self.reads_shape:
            return site.fresh_fixed("computed from shapes")
        return apply_signature(site, self._elementwise(site) if self.elementwise else self._signature(site))

    def statistic_inputs(self) -> tuple[int, ...]:
        """Positions of inputs that hold running statistics."""
        names = list(self.inputs)
        return tuple(names.index(name) for name in self.statistics)

    def _elementwise(self, site: Site) -> Signature:
        signature = Signature((_STAR,) * len(site.node.inputs), (_STAR,) * len(site.node.outputs))
        shape = site.shape(0)
        if shape is None:
            return signature
        rank = len(shape)
        mixed: list[int] = []
        if self.mixes_axis is not None:
            mixed = [site.axis(rank, -1, self.mixes_axis)]
        elif self.mixes_from is not None:
            mixed = list(range(site.axis(rank, 1, self.mixes_from), rank))
        elif self.mixes_axes is not None:
            mixed = [axis % rank for axis in site.attribute(self.mixes_axes, list(range(rank)))]
        return replace(signature, mixes=tuple(f"b.{rank - 1 - axis}" for axis in mixed))

    def _signature(self, site: Site) -> Signature:
        inputs = [self._operand(site, name, index) for index, name in enumerate(self.inputs)]
        shape = site.shape(0)
        star_ranks = {
            star: len(shape) - site.axis(len(shape), -1, attribute)
            for star, attribute in self.from_axis.items()
            if shape is not None
        }
        sizes = {letter: int(site.attribute(attribute, 1)) for letter, attribute in self.sizes.items()}
        return Signature(tuple(inputs), tuple(self.outputs.values()), sizes, self.fixed, self.mixes, star_ranks)

    def _operand(self, site: Site, name: str, index: int) -> Pattern | None:
        pattern, shape = self.inputs[name], site.shape(index)
        if pattern is None or shape is None:
            return None
        if name in self.transpose and site.attribute(self.transpose[name], 0):
            return (*pattern[:-2], pattern[-1], pattern[-2])
        return pattern[len(pattern) - len(shape) :] if name in self.broadcast else pattern


OperatorTable = Mapping[tuple[str, str], tuple[OperatorSpec, ...]]


@cache
def builtin_operators() -> OperatorTable:
    """The operators that onnxmerge describes itself."""
    table: dict[tuple[str, str], tuple[OperatorSpec, ...]] = {}
    for path in sorted((specs() / "operators").glob("*.yaml")):
        table.update(read_operators(path))
    return table


def read_operators(path: Path) -> OperatorTable:
    """Read one file of signatures. Raises SignatureError naming the file and the operator."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SignatureError(f"{path}: cannot be read as YAML ({error})".replace("\n", " ")) from error
    if not isinstance(document, dict):
        raise SignatureError(f"{path}: expected a mapping of domains to operators")
    table: dict[tuple[str, str], tuple[OperatorSpec, ...]] = {}
    for domain, operators in document.items():
        for name, entry in (operators or {}).items():
            variants = entry if isinstance(entry, list) else [entry]
            try:
                specs_ = tuple(_read_entry(str(name), variant) for variant in variants)
            except SignatureError as error:
                raise SignatureError(f"{path}: {domain}::{name}: {error}") from error
            table["" if domain == "ai.onnx" else str(domain), str(name)] = specs_
    return table


def _read_entry(name: str, entry: Any) -> OperatorSpec:  # noqa: ANN401 - YAML
    if entry == "elementwise":
        return OperatorSpec(name, elementwise=True)
    if not isinstance(entry, dict):
        raise SignatureError(f"expected 'elementwise' or a mapping, found {entry!r}")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise SignatureError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise SignatureError(f"expected exactly one of {', '.join(_KINDS)}, found {', '.join(kinds) or 'none'}")
    if entry.get("rule") is not None and entry["rule"] not in RULES:
        raise SignatureError(f"there is no rule {entry['rule']!r}; known are {', '.join(sorted(RULES))}")
    fields = {key: value for key, value in entry.items() if key != "note"}
    for side in ("inputs", "outputs"):
        patterns = fields.get(side, {})
        fields[side] = {slot: None if text == "-" else parse_pattern(str(text)) for slot, text in patterns.items()}
    for key in ("mixes", "broadcast", "statistics"):
        fields[key] = tuple(fields.get(key, ()))
    missing = [slot for slot in (*fields["statistics"], *fields["broadcast"], *fields.get("transpose", ())) if slot not in fields["inputs"]]
    if missing:
        raise SignatureError(f"there is no input {missing[0]!r}")
    return OperatorSpec(name, **fields)


def find_operator(table: OperatorTable, domain: str, name: str, opset: int) -> OperatorSpec | None:
    """The entry for an operator at an opset, or None if nobody described it."""
    for spec in table.get((domain, name), ()):
        if spec.until is None or opset <= spec.until:
            return spec
    return None
