"""Whether a model is what its metadata says: its weights, its parents, its recipe, and that merging again gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from onnxmerge.checking.finding import Finding, Verdict
from onnxmerge.checking.gate import READ, Gate
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError, OnnxmergeError
from onnxmerge.model.digest import WEIGHTS, weights_digest
from onnxmerge.model.read import read_tensors

SOURCES, RECIPE, PERMUTED = "onnxmerge.sources", "onnxmerge.recipe", "onnxmerge.permuted_from"


def _weights(subject: Subject) -> Iterator[Finding]:
    recorded = subject.metadata.get(WEIGHTS)
    if recorded is None:
        yield _nothing(subject, WEIGHTS_GATE.id)
        return
    found = weights_digest(read_tensors(subject.proto, subject.path))
    verdict: Verdict = "pass" if found == recorded else "fail"
    told = "" if found == recorded else "its weights were changed after it was written: merge again, or sign what it is"
    yield Finding(WEIGHTS_GATE.id, "error", "", found, recorded, verdict, told)


def _parents(subject: Subject) -> Iterator[Finding]:
    recorded = subject.metadata.get(SOURCES) or subject.metadata.get(PERMUTED)
    if recorded is None or not subject.parents:
        yield _nothing(subject, PARENTS.id) if recorded is None else subject.skip(PARENTS.id, "no --against")
        return
    wanted = [*recorded.split(), *_base(subject)]
    for parent, name in zip(subject.parents, subject.parent_names, strict=True):
        known = parent.sha256 in wanted
        told = "" if known else "the model was made from other files: give those that it was made from, or merge again"
        verdict: Verdict = "pass" if known else "fail"
        yield Finding(PARENTS.id, "error", name, parent.sha256, " ".join(wanted), verdict, told)


def _base(subject: Subject) -> Iterator[str]:
    """The pretraining that the recipe names, which is given with the parents where the model is merged again."""
    try:
        base = json.loads(subject.metadata.get(RECIPE, "{}"))["base"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return
    if isinstance(base, str):
        yield base


def _recipe(subject: Subject) -> Iterator[Finding]:
    recorded = subject.metadata.get(RECIPE)
    if recorded is None:
        yield _nothing(subject, RECIPE_GATE.id)
        return
    told = "the recipe in the metadata was changed: merge again"
    try:
        recipe = json.loads(recorded)
        models = recipe["models"]
    except (ValueError, RecursionError, KeyError, TypeError):
        yield Finding(RECIPE_GATE.id, "error", "", "cannot be read", None, "fail", told)
        return
    if models != subject.metadata.get(SOURCES, "").split():
        yield Finding(RECIPE_GATE.id, "error", "", "names other models", "those of onnxmerge.sources", "fail", told)
        return
    yield Finding(RECIPE_GATE.id, "error", "", f"{len(models)} models, {len(recipe)} entries", None, "pass", "")


def _reproduce(subject: Subject) -> Iterator[Finding]:
    if not subject.settings.reproduce:
        yield subject.skip(REPRODUCE.id, "no --reproduce")
        return
    if subject.remake is None or RECIPE not in subject.metadata:
        told = "the model has no onnxmerge.recipe in its metadata, or came without a path; merge it with onnxmerge run"
        yield Finding(REPRODUCE.id, "error", "", "no recipe", "the same bytes", "unsupported", told)
        return
    try:
        again, own = subject.remake(), subject.network.sha256
    except InputError:
        raise
    except OnnxmergeError as error:
        raise InputError(str(error)) from error
    if again == own:
        yield Finding(REPRODUCE.id, "error", "", again, "the same bytes", "pass", "")
        return
    told = (
        "merging again gives other bytes: other versions of libraries, another number of threads "
        "(OPENBLAS_NUM_THREADS=1 on both sides), or another file than the recipe's"
    )
    yield Finding(REPRODUCE.id, "error", "", again, own, "fail", told)


def _nothing(subject: Subject, gate: str) -> Finding:
    return subject.skip(gate, "its metadata says nothing: onnxmerge did not write it, or an older one did")


WEIGHTS_GATE = Gate("provenance.weights", "the weights are those that were written", _weights, READ)
PARENTS = Gate("provenance.parents", "the parents are those that it was made from", _parents)
RECIPE_GATE = Gate("provenance.recipe", "the recipe is whole, and of its sources", _recipe)
REPRODUCE = Gate(
    "provenance.reproduce", "merging again gives the same bytes", _reproduce, (*READ, PARENTS.id), "reproduce"
)
