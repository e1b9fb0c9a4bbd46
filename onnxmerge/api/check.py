"""``check``: whether a model may ship, gate by gate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxmerge.calibration.sources import BATCH_SIZE, SourceSpec, open_source
from onnxmerge.calibration.specs import input_specs, is_batched
from onnxmerge.checking.layers import layers
from onnxmerge.checking.registry import FAMILIES, findings
from onnxmerge.checking.report import CheckReport
from onnxmerge.checking.schema import Interface
from onnxmerge.checking.settings import Settings
from onnxmerge.checking.subject import Subject
from onnxmerge.checking.targets import runtime, target
from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.candidate import free_batch
from onnxmerge.model.network import Network
from onnxmerge.model.paths import absolute
from onnxmerge.model.read import parse, read_network
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.prepare import ModelSource


def check(
    model: ModelSource,
    *,
    against: Sequence[ModelSource] = (),
    data: SourceSpec | None = None,
    min_runtime: str | None = None,
    targets: Sequence[str] = (),
    schema: str | os.PathLike[str] | Interface | None = None,
    certify: bool = False,
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
        min_runtime: The oldest ONNX Runtime that must run it, such as "1.17".
        targets: Other places where it must run: onnxruntime-web, openvino, tensorrt.
        schema: Names, types and shapes of inputs and outputs: a JSON file.
        certify: Prove the groups of units: see `inspect`.
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
    settings = Settings(
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
    subject = _subject(model, settings)
    subject.parents = tuple(read_network(parent) for parent in against)
    if data is not None:
        template = subject.parents[0] if subject.parents else _readable(subject)
        if template is not None:
            specs = input_specs(template.model)
            subject.data = open_source(
                data, free_batch(specs) if is_batched(specs) else specs, batch_size=batch_size, **(image_options or {})
            )
    found = tuple(findings(subject))
    network = _readable(subject)
    return CheckReport(subject.label, None if network is None else network.sha256, found, layers(subject))


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
