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
from onnxmerge.calibration.interleaved import Interleaved
from onnxmerge.calibration.known_inputs import Completed, open_with
from onnxmerge.calibration.recut import Recut
from onnxmerge.calibration.sources import CalibrationSource, OpenedSource, SourceSpec, room_for_feeds
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import Split
from onnxmerge.errors import AdapterError, InputError, QuantisedError, StructureError
from onnxmerge.model.interface import batch_inside, with_batch
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.scheme import Scheme
from onnxmerge.model.tokens import TokenSource
from onnxmerge.model.training import own_parameters, require_evaluating
from onnxmerge.pipeline.job import Job, Progress, Stages
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.ordering import averaged_in_disorder, in_one_order
from onnxmerge.pipeline.prepare import Base, ModelSource, read_floats, require, type_models
from onnxmerge.pipeline.quantising import require_restorable
from onnxmerge.pipeline.resizing import resize
from onnxmerge.pipeline.room import require_memory
from onnxmerge.pipeline.selection.held_out import divide, held_out
from onnxmerge.pipeline.separation import Parents, inputs_of, part, part_with_base, sample_for
from onnxmerge.pipeline.vocabulary import Vocabulary, filled_from_base, in_one_vocabulary, tables_differ, with_owners
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
    """What a merge is given beside the models and the options.

    ``calibration_of`` is data of each model's own, ``vocab`` the token list of each, and that of the base behind them.
    """

    calibration: SourceSpec | None
    base: ModelSource | None
    image_options: Mapping[str, Any]
    inputs: Mapping[str, SampleInput]
    calibration_of: Sequence[SourceSpec] | None = None
    vocab: Sequence[TokenSource] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether there is any calibration data."""
        return self.calibration is not None or self.calibration_of is not None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMerge:
    """A merge whose models are read, paired up and typed, and proved where that is needed.

    ``certificates`` has one for each model, or none where nothing that is done so far relies on groups of units.
    ``data`` is all that was opened; ``source`` what all models are measured on, as they take it, and ``own`` data of
    each model's own.

    ``schemes`` are those by which the parents were quantised (None: one was not), ``vocabulary`` the one that they were
    brought to (None: they have one already).
    """

    job: Job
    parents: Parents
    data: tuple[OpenedSource, ...]
    source: CalibrationSource | None
    own: tuple[CalibrationSource, ...]
    split: Split | None
    certificates: tuple[Certificate, ...]
    clock: Clock
    notes: tuple[str, ...]
    schemes: tuple[Scheme | None, ...]
    vocabulary: Vocabulary | None = None


def divided(prepared_merge: PreparedMerge, how: MergeOptions, *, labelled: bool) -> PreparedMerge:
    """The merge to be done in one way, with data held out for what that way has to choose."""
    job, source = prepared_merge.job, prepared_merge.source
    split = None
    if source is not None and how.task_vectors is None:
        split = divide(source, job.prepared.models, how, labelled=labelled)
    elif source is not None and (how.searches_scale or how.chooses_models):
        split = held_out(source, job.prepared.models)
    on = job.on(source if split is None else split.fit)
    return replace(prepared_merge, split=split, job=replace(on, options=how))


def relies_on_groups(given: MergeInputs, every: Sequence[MergeOptions]) -> bool:
    """Whether a merge by one of the ways does more than add up what stands at one place in all models.

    Units are moved, or their statistics measured, or rows of a table told to be tokens.
    """
    return given.calibrated or given.vocab is not None or any(how.moves for how in every)


def prepare_merge(
    models: Sequence[ModelSource],
    given: MergeInputs,
    how: MergeOptions,
    progress: Progress,
    stages: Stages,
    *,
    prove: bool = True,
) -> PreparedMerge:
    """Read the models and the data, pair up and type; certify where ``prove``. Raises what `merge` raises so far."""
    base = given.base
    clock = Clock(stages)
    with clock.stage("read"):
        networks, schemes, stuck = read_floats([*models, *([] if base is None else [base])], given.inputs)
        vocabulary = None
        if how.export_for_training:
            for network in networks:
                require_evaluating(network)
            networks = tuple(own_parameters(network) for network in networks)
        try:
            if given.vocab is not None:
                based = base is not None
                networks, vocabulary = in_one_vocabulary(networks, schemes, given.vocab, how, given.inputs, based=based)
            parents, start = _parted(networks, base, how, given.vocab)
        except (StructureError, QuantisedError):
            if stuck is not None:
                raise stuck from None
            raise
        data = _open(parents.models, given, how)
        found: list[CalibrationSource] = [completed or opened for opened, completed in data]
        size = _only_batch(parents, found[0], how.provider) if found else None
        if size is not None:
            parents, start = _parted([with_batch(network, size) for network in networks], base, how, given.vocab)
            found = [Recut(source, size) for source in found]
        opened = tuple(each for each, _ in data)
        source = found.pop(0) if given.calibration is not None else _together(parents, opened, found, how, progress)
    with clock.stage("type"):
        sample = _first_rows(parents.models, source) if source is not None else sample_for(parents, given.inputs)
        prepared = type_models(parents.models, sample, how.operators)
        if vocabulary is not None:
            prepared = with_owners(prepared, vocabulary, based=start is not None)
            parents = replace(parents, models=prepared.models)
        require_memory(prepared, how)
    job = Job(prepared, source, how, progress, tuple(found), start)
    with clock.stage("certify"):
        certificates = _certificates(job) if prove else ()
        job = replace(job, resized=resize(prepared, how))
    require_restorable(schemes, parents, job)
    notes = (
        *(note for network in networks for note in network.notes),
        *(() if size is None else (_fixed_inside(parents, size),)),
        *(() if vocabulary is None else vocabulary.notes),
    )
    return PreparedMerge(
        job, parents, opened, source, tuple(found), None, certificates, clock, notes, schemes[: len(models)], vocabulary
    )


def ordered(prepared_merge: PreparedMerge) -> PreparedMerge:
    """The merge with its models in one order, where nothing matches them later (see ``pipeline.ordering``)."""
    job, notes, certificates = prepared_merge.job, tuple[str, ...](), prepared_merge.certificates
    if job.options.task_vectors is not None:
        with prepared_merge.clock.stage("match"):
            job, notes = in_one_order(job)
        if job is not prepared_merge.job and not certificates:  # units were moved
            with prepared_merge.clock.stage("certify"):
                certificates = _certificates(prepared_merge.job)
    elif job.options.matcher is not None and not job.options.matcher.moves:
        notes = averaged_in_disorder(job)
    if job.base is not None:  # rows of tokens that a model lacks are the base's, and in its order
        prepared, base = filled_from_base(job.prepared, job.base)
        job = replace(job, prepared=prepared, base=base)
    parents = replace(prepared_merge.parents, models=job.prepared.models)
    notes = (*prepared_merge.notes, *notes)
    return replace(prepared_merge, job=job, parents=parents, certificates=certificates, notes=notes)


def read_data(prepared_merge: PreparedMerge) -> PreparedMerge:
    """The merge, all of its data read: what is wrong is said before anything is measured; what fits is kept."""
    with prepared_merge.clock.stage("read"):
        _read(prepared_merge.data, prepared_merge.job.progress)
    return prepared_merge


def _read(data: Sequence[OpenedSource], progress: Progress) -> None:
    """Read what of the data was not read to its end before."""
    for opened in data:
        if opened.found is None:
            with progress("reading data") as report:
                total = opened.batches
                for done, _ in enumerate(opened, start=1):
                    report(done, total)


def _together(
    parents: Parents,
    data: Sequence[OpenedSource],
    own: Sequence[CalibrationSource],
    how: MergeOptions,
    progress: Progress,
) -> CalibrationSource | None:
    """Data of each model's own as one source, on which all are measured; None where there is none.

    All of it is read, for samples of other shapes cannot stand in one batch.
    """
    if not own:
        return None
    _read(data, progress)
    specs = input_specs(parents.models.template.model)
    shapes = {shape for opened in data for shape in opened.findings().shapes}
    mixed = is_batched(specs) and fixed_batch(specs) is None and len(shapes) == 1
    return Interleaved(tuple(own), how.batch_size, mixed)


def _parted(
    networks: Sequence[Network], base: ModelSource | None, how: MergeOptions, vocab: Sequence[TokenSource] | None
) -> tuple[Parents, Base | None]:
    """The models paired up, and the base, which is the last of the networks where there is one.

    Of models in one vocabulary no heads are kept apart: each would have the rows that were made up for its model.
    """
    joint = how if vocab is None else replace(how, heads="joint")
    try:
        return (part(networks, joint), None) if base is None else part_with_base(networks)
    except AdapterError:
        raise
    except StructureError as error:
        helps = tables_differ(networks)
        if helps is None:
            raise
        raise StructureError(f"{error}; {helps}") from error


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


def _open(models: ModelSet, given: MergeInputs, options: MergeOptions) -> list[tuple[OpenedSource, Completed | None]]:
    """The calibration data, then that of each model's own, and what each is with the inputs that it lacks."""
    every = [*([] if given.calibration is None else [given.calibration]), *(given.calibration_of or ())]
    return [
        open_with(
            data,
            input_specs(models.template.model),
            given.inputs,
            samples=options.samples,
            batch_size=options.batch_size,
            room=room_for_feeds() // len(every),
            **dict(given.image_options),
        )
        for data in every
    ]


def _first_rows(models: ModelSet, source: CalibrationSource) -> dict[str, NDArray[Any]]:
    """A sample to trace: two rows of the first feed are enough for shapes, where the batch is free."""
    feed = next(iter(source), {})
    specs = input_specs(models.template.model)
    if is_batched(specs) and fixed_batch(specs) is None:
        return {name: array[:2] for name, array in feed.items()}
    return dict(feed)


def of_data(prepared_merge: PreparedMerge) -> list[str]:
    """What the user should know about the calibration data: where it says little, or there is little of it."""
    data = prepared_merge.data
    if not data:
        return []
    notes, prepared = [note for opened in data for note in opened.notes()], prepared_merge.job.prepared
    requests = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()]
    shared = data if len(data) == len(prepared_merge.own) else data[:1]  # what all models are measured on
    together = sum(opened.findings().rows for opened in shared)
    few = too_few(prepared.typing, requests, rows(prepared.trace.sample), together)
    matches = prepared_merge.job.options.task_vectors is None
    return [*notes, few] if few is not None and matches else notes


def _certificates(job: Job) -> tuple[Certificate, ...]:
    """The certificate of every model. Raises ValidationError where one did not pass."""
    found = list[Certificate]()
    for index, network in enumerate(job.prepared.models.sources):
        found.append(job.prepared.certify(index, seed=job.options.seed, provider=job.options.provider))
        require(found[-1], network.label)
    return tuple(found)
