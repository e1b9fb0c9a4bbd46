"""All gates, in the order in which they are asked: what others build on comes first."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmerge.checking import (
    accuracy,
    agreement,
    behaviour,
    certificate,
    cost,
    integrity,
    interface,
    portability,
    provenance,
)
from onnxmerge.checking.finding import Finding
from onnxmerge.checking.gate import Gate
from onnxmerge.checking.subject import Subject

GATES: tuple[Gate, ...] = (
    integrity.EXTERNAL,
    integrity.GRAPH,
    integrity.FINITE,
    integrity.LOADS,
    integrity.RUNS,
    portability.OPSET,
    portability.IR,
    portability.OPERATORS,
    portability.SIZE,
    interface.SCHEMA,
    interface.PARENTS,
    interface.FREE,
    certificate.GROUPS,
    behaviour.DETERMINISTIC,
    behaviour.FINITE,
    behaviour.BATCH,
    agreement.TOP1,
    agreement.ERROR,
    agreement.MEAN,
    agreement.COSINE,
    agreement.NOISE,
    agreement.FIRST,
    accuracy.TASK,
    accuracy.DROP,
    accuracy.ENSEMBLE,
    cost.SIZE,
    cost.PARAMETERS,
    cost.LATENCY,
    provenance.WEIGHTS_GATE,
    provenance.PARENTS,
    provenance.RECIPE_GATE,
    provenance.REPRODUCE,
)

FAMILIES = tuple(dict.fromkeys(gate.family for gate in GATES))


def findings(subject: Subject) -> Iterator[Finding]:
    """What all gates find, in order."""
    for gate in GATES:
        for finding in gate.findings(subject):
            if finding.blocks:
                subject.failed.add(finding.id)
            yield finding
