"""Whether a model is called as before: names, types and shapes, and that sizes declared free are free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxmerge.checking.finding import Finding, Severity
from onnxmerge.checking.gate import READ, RUNS, Gate
from onnxmerge.checking.schema import Interface, Port, differences, interface_of
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError
from onnxmerge.model.interface import resized, resized_batch
from onnxmerge.types import Array

BATCHES = (1, 2, 3)
"""Sizes of the batch that must all run."""

HEADS = "onnxmerge.heads"
"""In the metadata of a merge that kept its parents' heads apart: outputs are named after the parents."""

VOCABULARY = "onnxmerge.vocabulary"
"""In the metadata of a merge of models whose vocabularies differ: how many tokens it has, their digest, whose."""


def _schema(subject: Subject) -> Iterator[Finding]:
    wanted = subject.settings.schema
    if wanted is None:
        yield subject.skip(SCHEMA.id, "no --schema")
        return
    yield from _differences(subject, SCHEMA.id, wanted, "the schema", names=True)


def _parents(subject: Subject) -> Iterator[Finding]:
    if not subject.parents:
        yield subject.skip(PARENTS.id, "no --against")
    for place, (parent, name) in enumerate(zip(subject.parents, subject.parent_names, strict=True)):
        wanted = interface_of(parent)
        if HEADS in subject.metadata:
            wanted = Interface(wanted.inputs, None)
        tokens = subject.metadata.get(VOCABULARY, "").split(" ")[0]
        if tokens.isdecimal():
            wanted = _with_tokens(wanted, interface_of(subject.network), int(tokens))
        yield from _differences(subject, PARENTS.id, wanted, name, names=place == 0)


def _with_tokens(wanted: Interface, found: Interface, tokens: int) -> Interface:
    """The outputs of a parent with as many numbers as there are tokens where the merged model has one for each."""
    if wanted.outputs is None or found.outputs is None or len(wanted.outputs) != len(found.outputs):
        return wanted
    outputs = tuple(
        replace(own, shape=(*own.shape[:-1], tokens))
        if own.shape and other.shape and other.shape[-1] == tokens
        else own
        for own, other in zip(wanted.outputs, found.outputs, strict=True)
    )
    return replace(wanted, outputs=outputs)


def _differences(subject: Subject, gate: str, wanted: Interface, of: str, *, names: bool) -> Iterator[Finding]:
    found = list(differences(interface_of(subject.network), wanted, names=names))
    for where, is_, should in found:
        told = f"{of} has it otherwise: export with its names, types and free sizes"
        yield Finding(gate, "error", where, is_, should, "fail", told)
    if not found:
        count = len(wanted.inputs or ()) + len(wanted.outputs or ())
        yield Finding(gate, "error", "", f"{count} inputs and outputs as in {of}", None, "pass", "")


def _free_sizes(subject: Subject) -> Iterator[Finding]:
    groups = _groups(subject)
    if not groups:
        yield subject.skip(FREE.id, "no input has a free size")
    demanded = _demanded(subject.settings.schema)
    for symbol, axes in groups.items():
        batch = subject.runner.batched and all(axis == 0 for _, axis in axes)
        refused = _refused(subject, axes, batch=batch)
        blocks, measured = batch or bool(demanded & set(axes)), "free"
        if refused is not None and not batch and (tied := _tied(subject, symbol, groups)):
            every = [*axes, *(axis for other in tied for axis in groups[other])]
            if _refused(subject, every, batch=False) is None:
                refused, measured = None, f"free together with {', '.join(tied)}"
        if refused is None:
            yield Finding(FREE.id, "error", symbol, measured, "free", "pass", "")
            continue
        size, error = refused
        told = f"export it with a free size, or declare the one it has: {error}"
        severity: Severity = "error" if blocks else "warning"
        yield Finding(FREE.id, severity, symbol, f"does not run with {size}", "free", "fail", told)


Axis = tuple[str, int]
"""An input by name, and one of its axes."""


def _groups(subject: Subject) -> dict[str, list[Axis]]:
    """The free sizes of inputs by name; what stands first in all of them is the batch."""
    found: dict[str, list[Axis]] = {}
    for port in interface_of(subject.network).inputs or ():
        for axis, size in enumerate(port.shape or ()):
            if isinstance(size, str):
                first = axis == 0 and subject.runner.batched
                found.setdefault("batch" if first else size, []).append((port.name, axis))
    return found


def _demanded(schema: Interface | None) -> set[Axis]:
    """The axes that a schema wants free."""
    ports: tuple[Port, ...] = () if schema is None else schema.inputs or ()
    return {(port.name, axis) for port in ports for axis, size in enumerate(port.shape or ()) if isinstance(size, str)}


def _tied(subject: Subject, symbol: str, groups: dict[str, list[Axis]]) -> list[str]:
    """Other sizes by name that may have to be the same, as they are in the sample: exporters name each axis apart."""

    def sizes(name: str) -> set[int]:
        return {subject.sample[each].shape[axis] for each, axis in groups[name]}

    return [other for other in groups if other != symbol and sizes(other) == sizes(symbol)]


def _refused(subject: Subject, axes: list[Axis], *, batch: bool) -> tuple[int, str] | None:
    """The size that does not run, and why; None where all do that must: of a batch each, else one of a few."""
    name, axis = axes[0]
    own = subject.sample[name].shape[axis]
    sizes = BATCHES if batch else _others(own)
    last: tuple[int, str] | None = None
    one = subject.runner.batched and subject.runner.free
    sample = resized_batch(subject.sample, 1) if one else subject.sample
    for size in sizes:
        feed: dict[str, Array] = dict(sample)
        for each, place in axes:
            feed[each] = resized(feed[each], place, size)
        try:
            if batch:
                subject.answers_of(size)
            else:
                subject.runner.once(feed)
        except InputError as error:
            last = size, str(error).removeprefix(f"{subject.label}: ")
            if batch:
                return last
        else:
            if not batch:
                return None
    return last


def _others(size: int) -> tuple[int, ...]:
    """Other sizes that a network without a fixed one may take: images go by 32, signals and sequences by any."""
    return tuple(
        dict.fromkeys(each for each in (size + 32 if size >= 32 else 0, 2 * size, size // 2, size + 1) if each)
    )


SCHEMA = Gate("interface.schema", "inputs and outputs are those of the schema", _schema, READ, "schema")
PARENTS = Gate("interface.parents", "inputs and outputs are those of the parents", _parents, READ)
FREE = Gate("interface.free-sizes", "sizes that are declared free are free", _free_sizes, RUNS)
