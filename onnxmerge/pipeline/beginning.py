"""The stages before anything is measured: models and data are read, paired up, typed and certified."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from onnxmerge.activations.sample_size import too_few
from onnxmerge.activations.statistics import GramRequest
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.known_inputs import Completed, open_with
from onnxmerge.calibration.recut import Recut
from onnxmerge.calibration.sources import CalibrationSource, OpenedSource, SourceSpec, room_for_feeds
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import Split
from onnxmerge.errors import InputError, QuantisedError, StructureError
from onnxmerge.model.interface import batch_inside, with_batch
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.scheme import Scheme
from onnxmerge.pipeline.job import Job, Progress, Stages
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.ordering import in_one_order
from onnxmerge.pipeline.prepare import Base, ModelSource, read_floats, require, type_models
from onnxmerge.pipeline.quantising import require_restorable
from onnxmerge.pipeline.resizing import resize
from onnxmerge.pipeline.selection.held_out import divide, held_out
from onnxmerge.pipeline.separation import Parents, inputs_of, part, part_with_base, sample_for
from onnxmerge.validation.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall seconds of each stage, in all where it has several parts; ``stages`` is told of them."""

    stages: Stages = nullcontext
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with self.stages(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True, slots=True, eq=False)
class MergeInputs:
    """What a merge is given beside the models and the options."""

    calibration: SourceSpec | None
    base: ModelSource | None
    image_options: Mapping[str, Any]
    inputs: Mapping[str, SampleInput]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMerge:
    """A merge whose models are read, paired up, typed and certified; ``source`` is ``data`` as the models take it.

    ``schemes`` are those by which the parents were quantised (None: one was not).
    """

    job: Job
    parents: Parents
    data: OpenedSource | None
    source: CalibrationSource | None
    split: Split | None
    certificates: tuple[Certificate, ...]
    clock: Clock
    notes: tuple[str, ...]
    schemes: tuple[Scheme | None, ...]


def divided(prepared_merge: PreparedMerge, how: MergeOptions, *, labelled: bool) -> PreparedMerge:
    """The merge to be done in one way, with data held out for what that way has to choose."""
    job, source = prepared_merge.job, prepared_merge.source
    split = None
    if source is not None and how.task_vectors is None:
        split = divide(source, job.prepared.models, how, labelled=labelled)
    elif source is not None and how.searches_scale:
        split = held_out(source, job.prepared.models)
    return replace(
        prepared_merge, split=split, job=replace(job, options=how, source=source if split is None else split.fit)
    )


def prepare_merge(
    models: Sequence[ModelSource], given: MergeInputs, how: MergeOptions, progress: Progress, stages: Stages
) -> PreparedMerge:
    """Read the models and the data, pair up, type and certify. Raises what `merge` raises so far."""
    base = given.base
    clock = Clock(stages)
    with clock.stage("read"):
        networks, schemes, stuck = read_floats([*models, *([] if base is None else [base])], given.inputs)
        try:
            parents, start = _parted(networks, base, how)
        except (StructureError, QuantisedError):
            if stuck is not None:
                raise stuck from None
            raise
        data, completed = _open(parents.models, given, how)
        source: CalibrationSource | None = completed or data
        size = None if source is None else _only_batch(parents, source, how.provider)
        if source is not None and size is not None:
            parents, start = _parted([with_batch(network, size) for network in networks], base, how)
            source = Recut(source, size)
    with clock.stage("type"):
        sample = _first_rows(parents.models, source) if source is not None else sample_for(parents, given.inputs)
        prepared = type_models(parents.models, sample, how.operators)
    job = Job(prepared, source, how, progress, start)
    with clock.stage("certify"):
        certificates = tuple(_certificate(job, index) for index in range(len(prepared.models.weights)))
        job = replace(job, resized=resize(prepared, how))
    require_restorable(schemes, parents, job)
    notes = (
        *(note for network in networks for note in network.notes),
        *(() if size is None else (_fixed_inside(parents, size),)),
    )
    return PreparedMerge(job, parents, data, source, None, certificates, clock, notes, schemes[: len(models)])


def ordered(prepared_merge: PreparedMerge) -> PreparedMerge:
    """The merge with its models in one order, where nothing matches them later (see ``pipeline.ordering``)."""
    job = prepared_merge.job
    if job.options.task_vectors is None:
        return prepared_merge
    with prepared_merge.clock.stage("match"):
        job, notes = in_one_order(job)
    parents = replace(prepared_merge.parents, models=job.prepared.models)
    return replace(prepared_merge, job=job, parents=parents, notes=(*prepared_merge.notes, *notes))


def read_data(prepared_merge: PreparedMerge) -> PreparedMerge:
    """The merge, all of its data read: what is wrong is said before anything is measured; what fits is kept."""
    data = prepared_merge.data
    if data is not None:
        with prepared_merge.clock.stage("read"), prepared_merge.job.progress("reading data") as report:
            total = data.batches
            for done, _ in enumerate(data, start=1):
                report(done, total)
    return prepared_merge


def _parted(networks: Sequence[Network], base: ModelSource | None, how: MergeOptions) -> tuple[Parents, Base | None]:
    """The models paired up, and the base, which is the last of the networks where there is one."""
    return (part(networks, how), None) if base is None else part_with_base(networks)


def _only_batch(parents: Parents, source: CalibrationSource, provider: str) -> int | None:
    """The batch that the models are fixed to inside while they declare a free one; None where it is free.

    Raises InputError where heads are fixed to different ones.
    """
    specs = input_specs(parents.models.template.model)
    feed = next(iter(source), None)
    if feed is None or not is_batched(specs) or fixed_batch(specs) is not None:
        return None
    asked = (parents.models.template,) if parents.separation is None else parents.networks
    found = {network.label: batch_inside(network, inputs_of(network, feed), provider) for network in asked}
    sizes = {label: size for label, size in found.items() if size is not None}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{label} on {size}" for label, size in sizes.items())
        raise InputError(f"the models run on batches of different sizes only: {told}; export them with a free batch")
    return next(iter(sizes.values()), None)


def _fixed_inside(parents: Parents, size: int) -> str:
    samples = "sample" if size == 1 else "samples"
    return (
        f"{parents.networks[0].label}: declares a free batch, but runs on {size} {samples} at a time only: the data is "
        "fed so, and the merged model declares it"
    )


def _open(models: ModelSet, given: MergeInputs, options: MergeOptions) -> tuple[OpenedSource | None, Completed | None]:
    """The calibration data, and what it is with the inputs that it lacks."""
    if given.calibration is None:
        return None, None
    return open_with(
        given.calibration,
        input_specs(models.template.model),
        given.inputs,
        samples=options.samples,
        batch_size=options.batch_size,
        room=room_for_feeds(),
        **dict(given.image_options),
    )


def _first_rows(models: ModelSet, source: CalibrationSource) -> dict[str, NDArray[Any]]:
    """A sample to trace: two rows of the first feed are enough for shapes, where the batch is free."""
    feed = next(iter(source), {})
    specs = input_specs(models.template.model)
    if is_batched(specs) and fixed_batch(specs) is None:
        return {name: array[:2] for name, array in feed.items()}
    return dict(feed)


def of_data(prepared_merge: PreparedMerge) -> list[str]:
    """What the user should know about the calibration data: where it says little, or there is little of it."""
    if prepared_merge.data is None:
        return []
    notes, prepared = prepared_merge.data.notes(), prepared_merge.job.prepared
    requests = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()]
    few = too_few(prepared.typing, requests, rows(prepared.trace.sample), prepared_merge.data.findings().rows)
    matches = prepared_merge.job.options.task_vectors is None
    return [*notes, few] if few is not None and matches else notes


def _certificate(job: Job, index: int) -> Certificate:
    found = job.prepared.certify(index, seed=job.options.seed, provider=job.options.provider)
    require(found, job.prepared.models.sources[index].label)
    return found
