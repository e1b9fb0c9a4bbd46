"""What the user knows of a model's inputs (``--input``): shapes or values for the trace, and what data lacks.

A value goes with every sample of data that has none for that input; a shape only says what the trace is to have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import Feed, naming, read_npy, rows
from onnxmerge.calibration.sources import OpenedSource, SourceSpec, open_source
from onnxmerge.calibration.specs import InputSpec, check_shape, conform, is_batched
from onnxmerge.errors import InputError, UsageError
from onnxmerge.model.sample import SampleInput

_SHAPE = re.compile(r"\d{1,18}(,\d{1,18})*|scalar")


def parse(text: str) -> tuple[str, str]:
    """(name, shape or file) from NAME:SHAPE or NAME:FILE.npy. Raises UsageError for anything else."""
    name, colon, given = text.rpartition(":")
    if not colon or not name:
        raise UsageError(f"{text!r}: expected NAME:SHAPE or NAME:FILE.npy")
    if not given.endswith(".npy") and not _SHAPE.fullmatch(given):
        raise UsageError(f"{text!r}: {given!r} is neither a shape such as 1,3,224,224 nor a .npy file")
    return name, given


def known(given: str) -> SampleInput:
    """A shape (1,3,224,224 or scalar), or what is in a .npy file. Raises InputError where that cannot be read."""
    if not given.endswith(".npy"):
        return () if given == "scalar" else tuple(int(size) for size in given.split(","))
    path = Path(given)
    with naming(path):
        return read_npy(path, mapped=False)


@dataclass(frozen=True, slots=True, eq=False)
class Completed:
    """Data that lacks some inputs, each of which has one value for all samples; a source itself."""

    source: OpenedSource
    inputs: tuple[InputSpec, ...]
    values: Mapping[str, NDArray[Any]]

    @property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed."""
        least = 0 if is_batched(self.inputs) else rows(self.values)
        return [max(size, least) for size in self.source.sizes]

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return map(self._whole, self.source)

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        return map(self._whole, self.source.at(places))

    def _whole(self, feed: Feed) -> Feed:
        batched, found = is_batched(self.inputs), Feed()
        for spec in self.inputs:
            value = self.values.get(spec.name)
            if value is None:
                found[spec.name] = feed[spec.name]
            else:
                found[spec.name] = np.repeat(value, rows(feed), 0) if batched else value
        return found

    def digest(self) -> str:
        """SHA-256 of the data and of the values that go with it."""
        sha = hashlib.sha256(self.source.digest().encode())
        for name, value in sorted(self.values.items()):
            sha.update(f"{name!r} {value.dtype} {value.shape}".encode())
            sha.update(value.tobytes())
        return sha.hexdigest()


def open_with(
    data: SourceSpec, specs: Sequence[InputSpec], known_inputs: Mapping[str, SampleInput], **options: Any
) -> tuple[OpenedSource, Completed | None]:
    """The data, and the data with what it lacks, where values are given for that.

    Raises:
        InputError: the data cannot be read, or a value is not what the model takes.
        UsageError: the data has values for an input too, or of another shape.

    """
    values = {name: given for name, given in known_inputs.items() if isinstance(given, np.ndarray)}
    unknown = [name for name in known_inputs if name not in {spec.name for spec in specs}]
    if unknown:
        raise UsageError(
            f"--input {unknown[0]}: the model has no such input; its inputs are {', '.join(map(str, specs))}"
        )
    if not values:
        opened = open_source(data, specs, **options)
        _require_shapes(opened, specs, known_inputs)
        return opened, None
    if len(values) == len(specs) or _has_all(data, specs, options):
        raise UsageError(
            f"--input {next(iter(values))}: the calibration data has values for it too; leave one of them out"
        )
    opened = open_source(data, [spec for spec in specs if spec.name not in values], **options)
    _require_shapes(opened, specs, known_inputs)
    batched = is_batched(specs)
    own = {spec.name: _value(values[spec.name], spec, batched=batched) for spec in specs if spec.name in values}
    return opened, Completed(opened, tuple(specs), own)


def _has_all(data: SourceSpec, specs: Sequence[InputSpec], options: Mapping[str, Any]) -> bool:
    """Whether the data has something for every input."""
    try:
        return next(iter(open_source(data, specs, **options)), None) is not None
    except (InputError, UsageError):
        return False
    finally:
        rewind = getattr(data, "rewind", None)
        if callable(rewind):
            rewind()


def _require_shapes(source: OpenedSource, specs: Sequence[InputSpec], known_inputs: Mapping[str, SampleInput]) -> None:
    shapes = {name: given for name, given in known_inputs.items() if not isinstance(given, np.ndarray)}
    feed = next(iter(source), {}) if shapes else {}
    first = 1 if is_batched(specs) else 0
    for name, shape in shapes.items():
        if name in feed and feed[name].shape[first:] != shape[first:]:
            raise UsageError(
                f"--input {name}:{','.join(map(str, shape))} contradicts the calibration data, in which it is "
                f"{','.join(map(str, feed[name].shape))}; leave one of them out"
            )


def _value(array: NDArray[Any], spec: InputSpec, *, batched: bool) -> NDArray[Any]:
    """A value as the model takes it: one row of it where the first axis is the batch."""
    origin = f"--input {spec.name}"
    if batched and spec.shape is not None and array.ndim == len(spec.shape) - 1:
        array = array[None]
    check_shape(array.shape, spec, origin, batched=batched)
    if batched and len(array) != 1:
        raise UsageError(f"{origin}: holds {len(array)} rows; give one, which then goes with every sample of the data")
    return conform(array, spec, origin)
