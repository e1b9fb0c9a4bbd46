"""What operators are known for beside their axes: the ``traits`` of specs/operators, one table for all stages.

A trait may name the operands that it is about: ``{weights: [1, 2]}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import onnx_ir as ir

from onnxmerge.documents import read_yaml
from onnxmerge.errors import InputError
from onnxmerge.resources import specs

KEY = "traits"

TRAITS: Mapping[str, str] = {
    "arithmetic": "computes each element from those of its operands that it meets, and from nothing else",
    "attends": "attends by products of these operands: queries, keys and values",
    "bounded_by_inputs": "gives nothing above the largest of its inputs, or below the least of them and zero",
    "commutative": "gives the same for its operands in any order",
    "convolves": "slides the taps of a weight over positions",
    "copies": "hands its first operand on, perhaps as another type",
    "gives_sizes": "gives sizes alone",
    "inert": "does nothing at inference",
    "joins": "puts elements of its operands side by side",
    "linear_layer": "multiplies what it reads by a weight: a layer that can be rescaled and solved",
    "looks_up": "takes rows of its first operand by the indices in its second",
    "normalises": "divides by a statistic of what it reads",
    "not_negative": "gives nothing below zero",
    "not_negative_of_such": "gives nothing below zero where none of its operands does",
    "pools": "slides a window without a weight over positions",
    "random": "gives something else each time",
    "repeats": "hands all elements of its first operand on, some of them several times",
    "reshapes": "hands all elements of its first operand on, in other places",
    "scales": "multiplies these operands by what the others say",
    "selects": "gives for each element one of those that its operands have there",
    "sums": "is linear in all its operands together",
    "takes": "hands some elements of its first operand on",
    "weights": "multiplies activations by these operands, if they are weights",
}
"""What each trait means."""


def has(node: ir.Node, *traits: str) -> bool:
    """Whether the node's operator has one of ``traits``."""
    operator = _operator(node.domain, node.op_type)
    return any(operator in _operators()[trait] for trait in traits)


def known_for(domain: str, name: str, *traits: str) -> bool:
    """Whether an operator, by its domain and name, has one of ``traits``."""
    operator = _operator(domain, name)
    return any(operator in _operators()[trait] for trait in traits)


def operands_of(node: ir.Node, trait: str) -> tuple[int, ...]:
    """The operands that a trait of the node's operator is about; none where it has not the trait."""
    return _operators()[trait].get(_operator(node.domain, node.op_type), ())


def _operator(domain: str, name: str) -> tuple[str, str]:
    return "" if domain == "ai.onnx" else domain, name


@cache
def described() -> Mapping[str, Any]:
    """The files of specs/operators by their paths, each {domain: {operator: entry}}, traits included."""
    return {
        str(path): read_yaml(path, "a file of operators") for path in sorted((specs() / "operators").glob("*.yaml"))
    }


@cache
def _operators() -> Mapping[str, Mapping[tuple[str, str], tuple[int, ...]]]:
    """Trait -> the operators (domain, name) that have it, with the operands that it is about."""
    found: dict[str, dict[tuple[str, str], tuple[int, ...]]] = {trait: {} for trait in TRAITS}
    for path, document in described().items():
        for domain, operators in document.items():
            for name, entry in operators.items():
                for trait, operands in _traits(entry):
                    if trait not in found:
                        raise InputError(f"{path}: {domain}::{name}: there is no trait {trait!r}")
                    found[trait][_operator(domain, name)] = operands
    return found


def _traits(entry: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The traits of an entry and of its variants, with their operands."""
    for variant in entry if isinstance(entry, list) else [entry]:
        for trait in variant.get(KEY, ()) if isinstance(variant, dict) else ():
            if isinstance(trait, dict):
                yield from ((str(name), tuple(operands)) for name, operands in trait.items())
            else:
                yield str(trait), ()
