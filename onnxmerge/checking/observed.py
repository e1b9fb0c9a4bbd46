"""One pass over the data: what the model answers, and how it agrees with its parents, so that nothing runs twice."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.chunks import rows as rows_of
from onnxmerge.checking.runs import Runner, floats, same
from onnxmerge.errors import InputError
from onnxmerge.types import Array


@dataclass(slots=True)
class Agreement:
    """How one output agrees with a parent's: sums over all values and samples."""

    largest: float = 0.0
    scale: float = 0.0
    absolute: float = 0.0
    wrong: float = 0.0
    ours: float = 0.0
    theirs: float = 0.0
    product: float = 0.0
    values: int = 0
    top1: int = 0
    rows: int = 0

    def add(self, found: Array, wanted: Array) -> None:
        """Take in one batch: what is finite; infinities and nan must be the same.

        Raises InputError where they are not, or nothing is finite, or the shapes differ.
        """
        if found.shape != wanted.shape:
            raise InputError(f"its shape is {list(found.shape)}, that of the parent {list(wanted.shape)}")
        if wanted.ndim == 2 and wanted.shape[1] > 1:
            self.top1 += int((found.argmax(axis=1) == wanted.argmax(axis=1)).sum())
            self.rows += len(wanted)
        finite = np.isfinite(wanted)
        if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
            raise InputError("values that are not finite are not those of the parent")
        if wanted.size and not finite.any():
            raise InputError("no value is finite, so there is nothing to compare")
        new, old = found[finite].astype(np.float64), wanted[finite].astype(np.float64)
        error = np.abs(new - old)
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        self.scale = max(self.scale, float(np.abs(old).max(initial=0.0)))
        self.absolute += float(error.sum())
        self.wrong += float(np.square(error).sum())
        self.ours += float(np.square(new).sum())
        self.theirs += float(np.square(old).sum())
        self.product += float((new * old).sum())
        self.values += old.size

    @property
    def relative(self) -> float:
        """The largest error, relative to the largest value of the parent."""
        return self.largest / self.scale if self.scale else (0.0 if not self.largest else math.inf)

    @property
    def mean(self) -> float:
        """The mean absolute error."""
        return self.absolute / max(self.values, 1)

    @property
    def cosine(self) -> float:
        """Of the outputs for all samples, as one vector; 1 for two that are zero."""
        norm = math.sqrt(self.ours * self.theirs)
        return self.product / norm if norm else float(self.ours == self.theirs)

    @property
    def signal_to_noise(self) -> float:
        """In decibels: the parent's outputs are the signal, what differs from them the noise."""
        if not self.wrong:
            return math.inf
        return 10 * math.log10(self.theirs / self.wrong) if self.theirs else -math.inf


@dataclass(slots=True)
class Observed:
    """What a pass gave.

    ``not_finite`` counts values by output; ``agreements`` are by parent (its place) and output, ``exact`` says the same
    way whether outputs that are no floats are equal; ``errors`` say of a parent why it cannot be compared.
    """

    samples: int = 0
    not_finite: Counter[str] = field(default_factory=Counter)
    agreements: dict[tuple[int, str], Agreement] = field(default_factory=dict)
    exact: dict[tuple[int, str], bool] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def take(
        self,
        runner: Runner,
        feed: Feed,
        parents: tuple[Runner, ...],
        known: dict[str, Any] | None = None,
        *,
        all_run: bool = False,
    ) -> list[dict[str, Any] | InputError]:
        """Run one feed through the model and its parents: what each gave, or why it did not.

        ``known`` is what the model answers, where it ran before. A parent that cannot be compared is run no more, but
        with ``all_run``. Raises InputError where the model does not run on it.
        """
        given = runner.run(feed) if known is None else known
        outputs: list[dict[str, Any] | InputError] = [given]
        self.samples += rows_of(feed) if runner.batched else 1
        for name, array in floats(given):
            if not np.isfinite(array).all():
                self.not_finite[name] += int((~np.isfinite(array)).sum())
        for place, parent in enumerate(parents):
            if place in self.errors and not all_run:
                continue
            try:
                theirs = parent.run(parent.fitting(feed))
                outputs.append(theirs)
                if place not in self.errors:
                    self._compare(place, given, parent, theirs)
            except InputError as error:
                self.errors.setdefault(place, str(error))
                if len(outputs) == place + 1:  # it did not run at all
                    outputs.append(error)
        return outputs

    def _compare(self, place: int, given: dict[str, Any], parent: Runner, theirs: dict[str, Any]) -> None:
        partners = partner_outputs(tuple(given), parent)
        numbers = dict(floats(theirs))
        for name, value in theirs.items():
            if name not in numbers:
                key = place, partners.get(name, name)
                self.exact[key] = self.exact.get(key, True) and key[1] in given and same([given[key[1]]], [value])
        for name, array in numbers.items():
            own = partners.get(name)
            if own is None:
                raise InputError(f"no output of the model answers for {name!r} of {parent.network.label}")
            agreement = self.agreements.setdefault((place, own), Agreement())
            found = given[own]
            if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
                raise InputError(f"output {own!r} holds no numbers, as that of the parent does")
            try:
                agreement.add(found, array)
            except InputError as error:
                raise InputError(f"output {own!r}: {error}") from error


def partner_outputs(names: tuple[str, ...], parent: Runner) -> dict[str, str]:
    """Which output of the model answers for each of a parent's.

    That is the one of its name, the one named after both (where
    heads were kept apart), or the one in its place.
    """
    stem = "" if parent.network.path is None else parent.network.path.stem
    found: dict[str, str] = {}
    for place, name in enumerate(parent.names):
        if name in names:
            found[name] = name
        elif f"{name}_{stem}" in names:
            found[name] = f"{name}_{stem}"
        elif len(names) == len(parent.names):
            found[name] = names[place]
    return found
