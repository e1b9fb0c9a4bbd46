"""Average paired models into one set of weights, tensor by tensor.

Every tensor of the other models is brought to the first's coordinates and averaged there, or all are zipped into the
coordinates of the merged units. One tensor is in memory at a time: what comes back computes on access and keeps
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError, UsageError
from onnxmerge.model.arrays import identical, is_floating
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import ModelSet
from onnxmerge.types import Positions
from onnxmerge.units.layout import TensorLayout, Typing
from onnxmerge.units.permutations import invert, transport, transported
from onnxmerge.units.zips import Matchings, Zipped, zipped


def combine(
    models: ModelSet,
    typing: Typing,
    matchings: Matchings,
    *,
    weights: Sequence[float] | None = None,
) -> LazyWeights:
    """The (weighted) mean of all models, under the template's names.

    ``matchings`` are permutations to the first model's coordinates, one entry for each model but the first, or a zip
    of all (``zip_transport.zipped``); ``weights`` has one number for each model (equal by default,
    and divided by their sum). Sums are formed in float64 and cast back to the stored type, so float16 and bfloat16
    tensors keep theirs, and a tensor that is equal in all models keeps its bits. Whatever is not a float (indices,
    masks, text) must be equal in all models once transported. A token that not all models own is the mean of those that
    do (``ModelSet.owned``).

    Raises UsageError for a wrong number of matchings or weights. Reading a tensor raises InputError, naming it, where
    the models differ in something that cannot be averaged.
    """
    every = shares_of(weights, len(models.weights))
    aligned: list[Mapping[str, NDArray[Any]]] = []
    if not isinstance(matchings, Zipped):
        if len(matchings) != len(models.weights) - 1:
            raise UsageError(
                f"expected one matching for each model but the first: {len(models.weights) - 1}, found {len(matchings)}"
            )
        others = [transported(each, typing, perms) for each, perms in zip(models.weights[1:], matchings, strict=True)]
        aligned = [models.weights[0], *others]

    def mean(name: str, shares: Sequence[float], counted: Sequence[int]) -> NDArray[Any]:
        """The mean of the models that are ``counted``; the others have no share."""
        if isinstance(matchings, Zipped):
            return _zipped(name, models, typing, matchings, shares)
        return mean_of(name, (aligned[each][name] for each in counted), [shares[each] for each in counted])

    def combined(name: str) -> NDArray[Any]:
        found = mean(name, every, range(len(every)))
        if models.owned is None:
            return found
        return models.owned.with_means(name, found, lambda owners: mean(name, shares_among(owners, every), owners))

    return LazyWeights(models.weights[0], combined)


def average(
    arrays: Sequence[NDArray[Any]], layout: TensorLayout, typing: Typing, matchings: Matchings, shares: Sequence[float]
) -> NDArray[np.float64]:
    """The weighted mean of one array of each model over the units that correspond."""
    if isinstance(matchings, Zipped):
        return zipped(arrays, layout, typing, matchings, shares)
    perms = [{}, *matchings]
    moved = [transport(array, layout, typing.spaces, each) for array, each in zip(arrays, perms, strict=True)]
    return np.asarray(np.average(moved, axis=0, weights=shares), np.float64)


def _zipped(name: str, models: ModelSet, typing: Typing, matchings: Zipped, shares: Sequence[float]) -> NDArray[Any]:
    layout = typing.initializers.get(name)
    first = models.weights[0][name]
    if layout is None or not any(space in matchings.models[0] for block in layout.blocks for space in block.spaces):
        return mean_of(name, (weights[name] for weights in models.weights), shares)
    if not is_floating(first.dtype) or first.dtype.kind == "c":
        perms = _permutations(layout, typing, matchings)
        if perms is not None:
            moved = (transported(own, typing, each)[name] for own, each in zip(models.weights, perms, strict=True))
            return mean_of(name, moved, shares)
        raise InputError(
            f"initializer {name} ({first.dtype}): its values cannot be averaged, and a zip merges units of one model; "
            "use a method that aligns, such as mudsc-align"
        )
    with np.errstate(invalid="ignore"):
        mean = zipped((weights[name] for weights in models.weights), layout, typing, matchings, shares)
    return _known(name, mean).astype(first.dtype)


def _permutations(layout: TensorLayout, typing: Typing, zips: Zipped) -> list[dict[str, Positions]] | None:
    """What brings each model to the merged units, if none of the tensor's units is merged inside a model or apart."""
    names = {space for block in layout.blocks for space in block.spaces} & {*zips.models[0]}
    labels = [{name: own[name] for name in names} for own in zips.models]
    for name, positions in (each for own in labels for each in own.items()):
        if name in zips.widths or not np.all(np.sort(positions) == np.arange(positions.shape[-1])):
            return None
    return [invert(own, typing.spaces) for own in labels]


def shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """Each model's share in a mean: ``weights`` divided by their sum, equal shares where there are none.

    Raises UsageError for a wrong number of weights, or where they make no mean.
    """
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise UsageError(f"expected one weight for each of the {count} models, found {len(weights)}")
    with np.errstate(over="ignore"):
        total = float(np.sum(weights))
    if not np.isfinite(total) or total == 0:
        raise UsageError(f"weights of the models must be finite and must not add up to zero, found {list(weights)}")
    return [float(weight) / total for weight in weights]


def shares_among(owners: Sequence[int], shares: Sequence[float]) -> list[float]:
    """The shares of all models where only the ``owners`` count; equal ones where these count for nothing."""
    total = sum(shares[each] for each in owners)
    theirs = {each: shares[each] / total if total > 0 else 1 / len(owners) for each in owners}
    return [theirs.get(each, 0.0) for each in range(len(shares))]


def mean_of(name: str, arrays: Iterable[NDArray[Any]], shares: Sequence[float]) -> NDArray[Any]:
    """The mean of one tensor of each model, all in the same coordinates (see ``combine``)."""
    stream = iter(arrays)
    first = next(stream)
    total: NDArray[Any] | None = None  # stays None as long as all models agree
    differs = False
    for index, array in enumerate(stream, start=1):
        if not differs and identical(first, array):
            continue
        if not differs and not is_floating(first.dtype):
            raise InputError(
                f"initializer {name} ({first.dtype}): model {index + 1} differs from the first in values that "
                "cannot be averaged; merge the float models, then quantise, or merge up to the node that reads it"
            )
        last = index == len(shares) - 1
        into = np.empty(first.shape, first.dtype if last else _wide(first))
        before, share = (first, sum(shares[:index])) if total is None else (total, 1.0)
        _add(name, into, before, share, array, shares[index])
        total, differs = into, True
    return first if total is None else total.astype(first.dtype, copy=False)


def _wide(array: NDArray[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex128 if array.dtype.kind == "c" else np.float64)


BLOCK = 1 << 15
"""Numbers that are added up at a time: in float64 they stay in the processor's cache."""


def _add(name: str, into: NDArray[Any], before: NDArray[Any], share: float, array: NDArray[Any], weight: float) -> None:
    """Put ``share * before + weight * array`` into an array, in float64 and a block at a time."""
    wide = _wide(before)
    target, left, right = into.reshape(-1), before.reshape(-1), array.reshape(-1)
    for start in range(0, target.size, BLOCK):
        block = slice(start, start + BLOCK)
        total = left[block].astype(wide) if share != 0 else np.zeros(left[block].shape, wide)
        if share not in (0, 1):
            total *= share
        if weight != 0:  # a mask's -inf must not turn into nan
            with np.errstate(invalid="ignore"):
                total += right[block].astype(wide) * weight
        target[block] = _known(name, total).astype(into.dtype, copy=False)


def _known(name: str, mean: NDArray[Any]) -> NDArray[Any]:
    """The mean, which is not a number where infinities of both signs meet. Raises InputError there."""
    if np.isnan(mean).any():
        raise InputError(
            f"initializer {name}: infinite with one sign in one model and with the other in another, which has no "
            "mean; merge models that mask alike"
        )
    return mean
