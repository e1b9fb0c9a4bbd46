"""``check``: whether a model may ship, gate by gate."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxmerge.api.reproduce import remade
from onnxmerge.calibration.sources import BATCH_SIZE, ENDLESS, SourceSpec, open_source
from onnxmerge.calibration.specs import input_specs, is_batched
from onnxmerge.checking.labelled import LabelledEvaluation
from onnxmerge.checking.layers import layers
from onnxmerge.checking.provenance import RECIPE
from onnxmerge.checking.registry import FAMILIES, GATES, findings
from onnxmerge.checking.report import CheckReport
from onnxmerge.checking.schema import Interface
from onnxmerge.checking.settings import Settings
from onnxmerge.checking.subject import Subject
from onnxmerge.checking.targets import runtime, target
from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.candidate import free_batch
from onnxmerge.evaluation.labels import LabelSpec, read_labels
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth
from onnxmerge.model.network import Network
from onnxmerge.model.paths import absolute
from onnxmerge.model.read import parse, read_network
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.prepare import ModelSource
from onnxmerge.pipeline.tasks import TaskSpec, require_own_folder, tasks_learned, tasks_of


def check(
    model: ModelSource,
    *,
    against: Sequence[ModelSource] = (),
    data: SourceSpec | None = None,
    labels: LabelSpec | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    max_drop: float | None = None,
    max_ensemble_drop: float | None = None,
    min_agreement: float | None = None,
    max_error: float | None = None,
    max_size_ratio: float | None = None,
    max_parameters_ratio: float | None = None,
    max_latency_ratio: float | None = None,
    reproduce: bool = False,
    min_runtime: str | None = None,
    targets: Sequence[str] = (),
    schema: str | os.PathLike[str] | Interface | None = None,
    certify: bool = False,
    baseline: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    inputs: Mapping[str, SampleInput] | None = None,
    operators: Path | None = None,
    image_options: Mapping[str, Any] | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    provider: str = "cpu",
) -> CheckReport:
    """Hold a model to all gates: see docs/checking.md.

    Args:
        model: A path, or a model in memory.
        against: The models that it was made from, or should agree with.
        data: What models run on: see `merge`. Without any, a synthetic sample.
        labels: A label for each sample: see `evaluate`.
        tasks: What labels mean: see `evaluate`.
        vectors: File of class vectors: see `evaluate`.
        max_drop: Points of accuracy that may be lost against the best parent that learned a task: the whole 95%
            interval of what was lost must lie within.
        max_ensemble_drop: The same against the parents' ensemble.
        min_agreement: Share of samples, from 0 to 1, for which the highest class must be that of each parent.
        max_error: The largest error of an output, relative to the largest value of each parent's.
        max_size_ratio: Bytes, as many times those of the first parent.
        max_parameters_ratio: Parameters, as many times those of the first parent.
        max_latency_ratio: Time of a run, as many times that of the first parent.
        reproduce: Merge again as the metadata says, from ``against`` and ``data``, and compare bytes.
        min_runtime: The oldest ONNX Runtime that must run it, such as "1.17".
        targets: Other places where it must run: onnxruntime-web, openvino, tensorrt.
        schema: Names, types and shapes of inputs and outputs: a JSON file.
        certify: Prove the groups of units: see `inspect`.
        baseline: A report of an earlier check (JSON): only what got worse since then fails.
        only: Families of gates to ask, and no others.
        skip: Families of gates to leave out.
        inputs: Shape or value of inputs of the synthetic sample.
        operators: A file of signatures for operators of your own.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        batch_size: Samples that run at once, where models do not fix it.
        seed: Of the certificate's permutations.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        InputError: the model is no ONNX file, or a parent, the data or the schema cannot be read.
        UsageError: the arguments contradict each other, or name what there is not.

    """
    bounds = {
        "max_drop": max_drop,
        "max_ensemble_drop": max_ensemble_drop,
        "min_agreement": min_agreement,
        "max_error": max_error,
        "max_size_ratio": max_size_ratio,
        "max_parameters_ratio": max_parameters_ratio,
        "max_latency_ratio": max_latency_ratio,
    }
    _require_use(bounds, against=bool(against), data=data is not None, labels=labels is not None)
    if not reproduce and labels is None and (tasks is not None or vectors is not None):
        raise UsageError("tasks and class vectors say what labels mean: give these too (--labels)")
    if not reproduce and not certify and operators is not None:
        raise UsageError("signatures of operators (--operators) are for the certificate: ask for it (--certify)")
    held = _held_against(baseline)
    settings = Settings(
        **bounds,
        reproduce=reproduce,
        targets=(*([] if min_runtime is None else [runtime(min_runtime)]), *map(target, dict.fromkeys(targets))),
        schema=_schema(schema),
        certify=certify,
        only=_families("only", only),
        skip=_families("skip", skip),
        inputs=inputs or {},
        operators=operators,
        seed=seed,
        provider=provider,
    )
    _require_selected(settings)
    subject = _subject(model, settings)
    subject.parents = tuple(read_network(parent) for parent in against)
    images = dict(image_options or {})
    if labels is not None and data is not None:
        subject.labelled = _labelled(labels, data, tasks, vectors, against)
    if data is not None:
        template = subject.parents[0] if subject.parents else _readable(subject)
        if template is not None:
            specs = input_specs(template.model)
            # Of data without end one sample more than there are labels is enough to refuse it.
            endless = ENDLESS if subject.labelled is None else subject.labelled.right.samples + 1
            wanted = free_batch(specs) if is_batched(specs) else specs
            subject.data = open_source(data, wanted, endless=endless, batch_size=batch_size, **images)
    if subject.path is not None:
        given = {
            "calibration": data,
            "labels": labels,
            "tasks": tasks,
            "vectors": vectors,
            "inputs": inputs,
            "image_options": images,
        }
        subject.remake = lambda: remade(subject.metadata[RECIPE], against, operators, given)
    found = tuple(findings(subject))
    network = _readable(subject)
    return held(CheckReport(subject.label, None if network is None else network.sha256, found, layers(subject)))


def _held_against(baseline: str | os.PathLike[str] | None) -> Callable[[CheckReport], CheckReport]:
    """What makes of a report one that is held to a baseline."""
    if baseline is None:
        return lambda report: report
    from onnxmerge.checking.baseline import held_against, read_baseline  # pydantic is slow to import

    before = read_baseline(baseline)
    return lambda report: held_against(report, before)


def _require_use(bounds: Mapping[str, float | None], *, against: bool, data: bool, labels: bool) -> None:
    """Raise UsageError for a bound that nothing could be held to."""
    needed = {"min_agreement": data, "max_drop": labels, "max_ensemble_drop": labels}
    for name, value in bounds.items():
        flag = f"--{name.replace('_', '-')}"
        if value is not None and not value >= 0:
            raise UsageError(f"{flag}: expected a number of at least 0, found {value}")
        if value is not None and not against:
            raise UsageError(f"{flag} is against parents: name one (--against)")
        if value is not None and not needed.get(name, True):
            what = "data (--calib)" if name == "min_agreement" else "data and labels (--calib, --labels)"
            raise UsageError(f"{flag} is measured on {what}: give them")
    if labels and not data:
        raise UsageError("labels are of samples: give the data too (--calib)")


def _require_selected(settings: Settings) -> None:
    """Raise UsageError where a gate is asked for and left out at once."""
    for gate in GATES:
        if gate.asked(settings) and not gate.selected(settings):
            option = "--skip" if gate.family in settings.skip else "--only"
            raise UsageError(f"--{gate.asked_by.replace('_', '-')} asks for {gate.id}, which {option} leaves out")


def _labelled(
    labels: LabelSpec,
    data: SourceSpec,
    tasks: TaskSpec | None,
    vectors: str | Path | None,
    against: Sequence[ModelSource],
) -> LabelledEvaluation:
    """What the right answers are, read before the work. Raises InputError and UsageError as `evaluate` does."""
    require_own_folder(labels, data)
    found, listed = tasks_of(tasks, vectors, Task("classes"))
    right = truth(found, read_labels(Path(labels) if isinstance(labels, str) else labels))
    return LabelledEvaluation(found, right, tuple(tasks_learned(against, found, listed)))


def _schema(given: str | os.PathLike[str] | Interface | None) -> Interface | None:
    if given is None or isinstance(given, Interface):
        return given
    from onnxmerge.checking.schema_file import read_schema  # pydantic is slow to import, and needed for these alone

    return read_schema(given)


def _families(option: str, given: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in given if name not in FAMILIES]
    if unknown:
        raise UsageError(f"--{option} {unknown[0]}: there are no such gates; choose among {', '.join(FAMILIES)}")
    return tuple(given)


def _subject(model: ModelSource, settings: Settings) -> Subject:
    if isinstance(model, onnx.ModelProto):
        return Subject(model, f"model {model.graph.name or 'without a name'!r}", None, model, settings)
    if isinstance(model, ir.Model):
        label = f"model {model.graph.name or 'without a name'!r}"
        return Subject(model, label, None, ir.to_proto(model), settings)
    path = absolute(model)
    proto, _ = parse(path)
    return Subject(path, str(path), path, proto, settings)


def _readable(subject: Subject) -> Network | None:
    """The model, where it can be read: that it cannot is for the integrity gates to say."""
    try:
        return subject.network
    except InputError:
        return None
