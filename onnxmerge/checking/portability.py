"""Whether a model runs where it is to run: opset, IR version, operators and size against the tables of targets."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxmerge.checking.finding import Finding, compared
from onnxmerge.checking.gate import Gate
from onnxmerge.checking.subject import Subject
from onnxmerge.checking.targets import Target
from onnxmerge.model.walk import node_name, walk

STANDARD = ("", "ai.onnx")


def _opset(subject: Subject) -> Iterator[Finding]:
    own = [each.version for each in subject.proto.opset_import if each.domain in STANDARD]
    for target in _targets(subject):
        oldest, newest = target.opsets
        if not own:
            yield subject.skip(OPSET.id, "the model uses no standard operators", where=target.name)
        elif own[0] < oldest:
            told = f"convert it to opset {oldest} or newer (onnx.version_converter), or export again"
            yield Finding(OPSET.id, "error", target.name, own[0], f"{oldest} to {newest}", "fail", told, None)
        else:
            told = f"export with opset {newest} or older"
            yield compared(OPSET.id, own[0], newest, higher_is_better=False, where=target.name, remedy=told)
    if not subject.settings.targets:
        yield _unasked(subject, OPSET.id)


def _ir(subject: Subject) -> Iterator[Finding]:
    for target in _targets(subject):
        if target.ir is None:
            yield subject.skip(IR.id, "its table has no IR version", where=target.name)
            continue
        told = f"save it with model.ir_version = {target.ir}: nothing but newer types and functions needs more"
        own = subject.proto.ir_version
        yield compared(IR.id, own, target.ir, higher_is_better=False, where=target.name, remedy=told)
    if not subject.settings.targets:
        yield _unasked(subject, IR.id)


def _operators(subject: Subject) -> Iterator[Finding]:
    nodes = [part.message for part in walk(subject.proto) if isinstance(part.message, onnx.NodeProto)]
    own = {(function.domain, function.name) for function in subject.proto.functions}
    for target in _targets(subject):
        lacking: dict[tuple[str, str], onnx.NodeProto] = {}
        for node in nodes:
            known = (node.domain, node.op_type) in own or _has(target, node)
            if not known:
                lacking.setdefault((node.domain, node.op_type), node)
        for (domain, kind), node in lacking.items():
            name = f"{domain}.{kind}" if domain not in STANDARD else kind
            told = f"{name} at {node_name(node)}: export without it, or write it in operators that {target.name} has"
            yield Finding(OPERATORS.id, "error", target.name, name, "supported", "fail", told)
        if not lacking:
            kinds = len({(node.domain, node.op_type) for node in nodes})
            yield Finding(OPERATORS.id, "error", target.name, f"{kinds} operators", "supported", "pass", "")
    if not subject.settings.targets:
        yield _unasked(subject, OPERATORS.id)


def _has(target: Target, node: onnx.NodeProto) -> bool:
    if node.domain in STANDARD:
        return node.op_type not in target.unsupported
    known = target.domains.get(node.domain, frozenset())
    return known is None or node.op_type in known


def _size(subject: Subject) -> Iterator[Finding]:
    bounded = [target for target in _targets(subject) if target.size is not None]
    for target in bounded:
        told = "prune or quantise it: more cannot be addressed there"
        yield compared(SIZE.id, subject.bytes, target.size, higher_is_better=False, where=target.name, remedy=told)
    if not bounded:
        yield _unasked(subject, SIZE.id)


def _targets(subject: Subject) -> tuple[Target, ...]:
    return subject.settings.targets


def _unasked(subject: Subject, gate: str) -> Finding:
    return subject.skip(gate, "no --min-runtime and no --target")


OPSET = Gate("portability.opset", "every target knows the opset", _opset)
IR = Gate("portability.ir", "every target knows the IR version", _ir)
OPERATORS = Gate("portability.operators", "every target has the operators", _operators, asked_by="targets")
SIZE = Gate("portability.size", "every target can hold it", _size, ("integrity.external-data",))
