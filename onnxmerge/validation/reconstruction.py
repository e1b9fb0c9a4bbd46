"""How well a merged network gives its parents' outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.batches import each
from onnxmerge.merging.combine import is_floating
from onnxmerge.merging.reconstruction import Reference, features_of
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session, run

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

SAMPLES = 128
"""So many samples are compared at most."""


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
    wrong = [np.zeros(len(names)) for names in outputs]
    whole = [np.zeros(len(names)) for names in outputs]
    inputs = [str(value.name) for value in model.graph.inputs]
    for feed in each(Spread(source, SAMPLES)):
        found = run(merged, feed)
        for m, (parent, session) in enumerate(zip(parents, sessions, strict=True)):
            own = {str(value.name): feed[name] for name, value in zip(inputs, parent.graph.inputs, strict=True)}
            given: Mapping[str, Any] = run(session, own)
            for place, (name, wanted) in enumerate(zip(outputs[m], given.values(), strict=True)):
                if isinstance(wanted, np.ndarray) and is_floating(wanted.dtype) and wanted.shape == found[name].shape:
                    wide = wanted.astype(np.float64)
                    wrong[m][place] += np.square(found[name] - wide).sum()
                    whole[m][place] += np.square(wide).sum()
    return tuple(_mean(*pair) for pair in zip(wrong, whole, strict=True))


def reconstructed(merged: Network, weights: Arrays, parents: Reference) -> tuple[float | None, ...]:
    """The same of a network with its parents' outputs, where what they answered is known.

    Of outputs with very many positions it is over those that ``parents`` has.
    """
    answers = [feature for feature in parents.features if feature.answer]
    own = features_of(merged, weights, answers, parents.feeds, parents.provider)[0] if answers else {}
    wrong = [
        [np.square(own[each.tensor] - rows[each.tensor], dtype=np.float64).sum() for each in answers]
        for rows in parents.rows
    ]
    whole = [[np.square(rows[each.tensor], dtype=np.float64).sum() for each in answers] for rows in parents.rows]
    return tuple(_mean(np.array(some), np.array(every)) for some, every in zip(wrong, whole, strict=True))


def _mean(wrong: NDArray[np.float64], whole: NDArray[np.float64]) -> float | None:
    seen = whole > 0
    return float(np.sqrt(wrong[seen] / whole[seen]).mean()) if seen.any() else None
