"""How well a merged network gives its parents' outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.reconstruction import Answers, features_of
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session
from onnxmerge.types import Arrays

SAMPLES = 128
"""So many samples are compared at most."""


@dataclass(slots=True)
class _Deviation:
    """How far a network's outputs are from a parent's, by output, in sums of squares."""

    wrong: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    whole: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, output: str, found: NDArray[Any], wanted: NDArray[Any]) -> None:
        wide = wanted.astype(np.float64)
        self.wrong[output] += float(np.square(found - wide).sum())
        self.whole[output] += float(np.square(wide).sum())

    @property
    def relative(self) -> float | None:
        """The mean over outputs of |found - wanted| / |wanted|; None where all are zero, or there is none."""
        found = [np.sqrt(self.wrong[output] / size) for output, size in self.whole.items() if size > 0]
        return float(np.mean(found)) if found else None


def reconstruct(
    model: ir.Model,
    weights: Arrays,
    outputs: Sequence[Sequence[str]],
    parents: Sequence[Network],
    source: CalibrationSource,
    *,
    provider: str = "cpu",
) -> tuple[float | None, ...]:
    """For each parent |merged - parent| / |parent| of its outputs, over all samples and coordinates (Euclidean norms).

    Of several outputs it is the mean; None where none is a float tensor that is not all zero. ``outputs[m]`` are the
    names that the outputs of parent m, in their order, have in the merged model.
    ``source`` gives feeds by the merged model's input names; the parents' inputs are in the same order.
    """
    merged = open_session(model, weights=weights, provider=provider, optimise=True, alternating=True)
    sessions = [open_session(parent.model, provider=provider, optimise=True, alternating=True) for parent in parents]
    deviations = [_Deviation() for _ in parents]
    inputs = [str(value.name) for value in model.graph.inputs]
    for feed in Spread(source, SAMPLES):
        found = merged.run(feed)
        for parent, session, names, deviation in zip(parents, sessions, outputs, deviations, strict=True):
            own = {str(value.name): feed[name] for name, value in zip(inputs, parent.graph.inputs, strict=True)}
            given: Mapping[str, Any] = session.run(own)
            for name, wanted in zip(names, given.values(), strict=True):
                if isinstance(wanted, np.ndarray) and is_floating(wanted.dtype) and wanted.shape == found[name].shape:
                    deviation.add(name, found[name], wanted)
    return tuple(deviation.relative for deviation in deviations)


def reconstructed(merged: Network, weights: Arrays, parents: Answers) -> tuple[float | None, ...]:
    """The relative error of each parent's outputs in the merged network, where what the parents answered is known.

    Of outputs with very many positions it is over those that ``parents`` has.
    """
    features = parents.features
    own = features_of(merged, weights, features, parents.feeds, parents.provider)[0] if features else {}
    deviations = [_Deviation() for _ in parents.rows]
    for deviation, rows in zip(deviations, parents.rows, strict=True):
        for feature in features:
            deviation.add(feature.tensor, own[feature.tensor], rows[feature.tensor])
    return tuple(deviation.relative for deviation in deviations)
