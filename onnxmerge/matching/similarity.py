"""Similarity between the units of two models: in weight space, in activation space, and mixed.

A unit's weight vector is the concatenation of its slices of every initializer in which its space stands. It is never
built: correlations come from Gram matrices and sums that are added up block by block, a few columns at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import StructureError
from onnxmerge.matching.problem import GroupProblem, Term
from onnxmerge.memory import mapped_zeros
from onnxmerge.types import Floats, Positions
from onnxmerge.units.groups import Group, Occurrence, Plan
from onnxmerge.units.permutations import block_content, composite_shape

ActivationSimilarity: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Space id -> correlation [n, n] of the flattened composite units (outer spaces, then the space), rows for the first
model and columns for the other, each in its own order. Only spaces that some tap showed have an entry."""

Objective: TypeAlias = Literal["correlation", "inner"]

CHUNK_BYTES = 1 << 26
"""Weights are turned into float64 at most this many bytes at a time."""

BLOCK_BYTES = 1 << 18
"""Similarities are mixed so many bytes at a time."""


KeptSums: TypeAlias = "Callable[[Group, Mapping[str, Positions]], Mapping[str, UnitSums] | None]"


@dataclass(frozen=True, slots=True, eq=False)
class PairOfModels:
    """What there is to compare: the first model's weights and another's, and how their activations correlate.

    ``alphas`` holds, for each matched space, the share of weight space in its similarity (see ``weight_shares``);
    ``kept`` gives the sums over weight vectors of a group's units, where these are kept (see ``matching.products``).
    """

    plan: Plan
    first: Mapping[str, NDArray[Any]]
    other: Mapping[str, NDArray[Any]]
    activations: ActivationSimilarity
    alphas: Mapping[str, float]
    objective: Objective = "correlation"
    kept: KeptSums | None = None


DIGITS = 6
"""Decimals that correlations of activations carry, which are products of float32: what lies behind decides nothing."""


def weight_shares(plan: Plan, alpha: float, activations: ActivationSimilarity) -> dict[str, float]:
    """The share of weight space in the similarity of each matched space.

    It is ``alpha``, but 1 where no activations were seen: neither of the space nor of anything inside it.
    """
    return {
        name: alpha if any(name in (inner, *plan.spaces[inner].varies_with) for inner in activations) else 1.0
        for group in plan.groups.values()
        for name in group.members
    }


def known_activations(plan: Plan, activations: ActivationSimilarity, models: int = 1) -> dict[str, NDArray[np.float64]]:
    """The similarities of matched spaces. A single unit inside an outer unit stands for it (depthwise convolution).

    Each side of a matrix has the units of ``models`` models. Raises StructureError where it has another size.
    """
    parts: dict[str, list[str]] = {}
    for name in activations:
        units = math.prod(composite_shape(name, plan.spaces))
        outers = [name, *reversed(plan.spaces[name].varies_with)]
        owner = next((outer for outer in outers if plan.spaces[outer].size > 1), name)
        if plan.spaces[owner].free and units == math.prod(composite_shape(owner, plan.spaces)):
            parts.setdefault(owner, []).append(name)

    def similarity(name: str) -> NDArray[np.float64]:
        found, units = activations[name], models * math.prod(composite_shape(name, plan.spaces))
        if found.shape != (units, units):
            raise StructureError(
                f"space {name}: expected activation similarities of {units} x {units} units, "
                f"found {list(found.shape)}; gather them again for these models"
            )
        return found

    return {  # one after the other: they are computed as they are read, and none is needed behind this
        owner: _known(sum(map(similarity, names[1:]), similarity(names[0])) / len(names))
        for owner, names in parts.items()
    }


def _known(correlations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlations to the digits that they carry; one that is not told from 1 is 1, whichever way it was rounded."""
    rounded = mapped_zeros(correlations.shape)
    np.round(correlations, DIGITS, out=rounded)
    rounded[rounded > 1 - 2.5 * 10.0**-DIGITS] = 1.0
    return rounded


def has_twins(similarity: NDArray[np.float64], models: int = 1) -> bool:
    """Whether two rows, or two columns, are the same to the digits that they carry.

    Or a unit is not told from several of one model, where there is one like it in each of ``models`` at most.
    """
    tolerance = 2 * 10.0**-DIGITS
    for rows in (similarity, similarity.T):
        if (np.count_nonzero(rows == 1, axis=1) > models).any():
            return True
        places = rows @ np.random.default_rng(0).standard_normal(rows.shape[1])
        order = np.argsort(places)  # equal rows come to lie side by side
        near = np.flatnonzero(np.diff(places[order]) <= tolerance * rows.shape[1])
        if any(np.abs(rows[order[place]] - rows[order[place + 1]]).max() <= tolerance for place in near):
            return True
    return False


@dataclass(slots=True)
class UnitSums:
    """Sums over weight vectors: ``products`` holds x y for pairs of units, the others are for each unit by itself."""

    products: Floats
    x: Floats
    xx: Floats
    y: Floats
    yy: Floats
    features: int = 0

    def add_units(self, x: Floats, y: Floats) -> None:
        """Add columns [units, features] to the sums over each unit."""
        self.x += x.sum(axis=1)
        self.y += y.sum(axis=1)
        self.xx += np.einsum("uf,uf->u", x, x)
        self.yy += np.einsum("uf,uf->u", y, y)
        self.features += x.shape[1]

    def add(self, other: UnitSums) -> None:
        """Add sums over other elements of the same vectors."""
        self.products += other.products
        self.x += other.x
        self.xx += other.xx
        self.y += other.y
        self.yy += other.yy
        self.features += other.features

    def scales(self) -> tuple[Floats, Floats]:
        """One over the norm of each centred vector, for both models; 0 for a constant one, which resembles nothing."""
        return inverse_norm(self.x, self.xx, self.features), inverse_norm(self.y, self.yy, self.features)


def inverse_norm(total: Floats, squares: Floats, features: int) -> Floats:
    """One over the norm of centred vectors, from the sums of their elements and of the squares; 0 for constant ones."""
    with np.errstate(invalid="ignore"):
        centred = squares - total * total / max(features, 1)
    # What rounding leaves of a constant vector is noise of about features * 1e-16 of its squares. NaN passes through.
    constant = centred <= squares * 1e-12
    return np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, centred)))


def unit_sums(count: int, *, paired: bool) -> UnitSums:
    """Empty sums for ``count`` units; ``paired``: products only of units at the same place, [units]."""
    products = np.zeros(count if paired else (count, count))
    return UnitSums(products, np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count))


def unit_view(content: NDArray[Any], occurrence: Occurrence, plan: Plan) -> NDArray[Any]:
    """A block's content (one dimension for each axis of the tensor) as [*kept slots, features], in the stored type."""
    block = occurrence.block
    slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
    kept = [slots.index(slot) for slot in occurrence.kept]
    order = (*kept, *(index for index in range(len(slots)) if index not in kept))
    content = content.reshape([plan.spaces[name].size for name in block.spaces]).transpose(order)
    return content.reshape((*content.shape[: len(kept)], math.prod(content.shape[len(kept) :])))


def group_problem(pair: PairOfModels, group: Group, perms: Mapping[str, Positions]) -> GroupProblem:
    """The similarities of a group's units under the other groups' permutations (see ``problem_of``)."""
    spaces = pair.plan.spaces

    def contents(occurrence: Occurrence) -> tuple[NDArray[Any], NDArray[Any]]:
        layout, block = occurrence.layout, occurrence.block
        first = block_content(pair.first[layout.name], layout, block, spaces, {})
        return first, block_content(pair.other[layout.name], layout, block, spaces, perms, occurrence.moved)

    weighed = all(pair.alphas[each.labels[leaf]] for each in group.occurrences for leaf in each.leaves)
    return problem_of(pair, group, contents, pair.kept(group, perms) if pair.kept is not None and weighed else None)


def problem_of(
    pair: PairOfModels,
    group: Group,
    contents: Callable[[Occurrence], tuple[NDArray[Any], NDArray[Any]]],
    known: Mapping[str, UnitSums] | None = None,
) -> GroupProblem:
    """The similarities of a group's units, S = alpha W + (1 - alpha) A.

    W is the Pearson correlation of weight vectors, or their inner product with the objective "inner". ``contents``
    gives a block of the first model and of the other, with the units of all other groups in one order; ``known`` are
    the sums over all of them, where they are known.
    """
    spaces = pair.plan.spaces
    shapes = {name: composite_shape(name, spaces) for name in group.members}
    sums = known or {name: unit_sums(math.prod(shapes[name]), paired=False) for name in group.members}
    terms: list[Term] = []
    for occurrence in group.occurrences if known is None else ():
        if not any(pair.alphas[occurrence.labels[leaf]] for leaf in occurrence.leaves):
            continue
        x, y = (unit_view(content, occurrence, pair.plan) for content in contents(occurrence))
        for leaf in occurrence.leaves:
            into = sums[occurrence.labels[leaf]]
            for columns_x, columns_y in paired_columns(occurrence, leaf, x, y):
                into.add_units(columns_x, columns_y)
                if not occurrence.linked:
                    into.products += columns_x @ columns_y.T
        if occurrence.linked:
            own, others = (
                np.nan_to_num(side.astype(np.float64), nan=np.nan, posinf=0.0, neginf=0.0) for side in (x, y)
            )
            terms.append(Term(own, others, occurrence.labels, occurrence.outer))
    similarity, scales = {}, {}
    for name, shape in shapes.items():
        alpha = pair.alphas[name]
        mixed, rows, columns = _mixed_similarity(sums[name], pair.objective, alpha, pair.activations.get(name))
        similarity[name] = mixed.reshape(shape + shape)
        half = math.sqrt(alpha)  # for each model, so that a model's scales are the same whichever it is compared with
        scales[name] = (half * rows).reshape((1, *shape)), (half * columns).reshape(shape)
    outers = {name: spaces[name].varies_with for name in group.members}
    return GroupProblem(outers, similarity, scales, tuple(terms), once=pair.objective == "inner")


def _mixed_similarity(
    sums: UnitSums, objective: Objective, alpha: float, seen: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """(mix of the similarities of weights and activations, row scale, column scale), as ``weight_similarity``.

    Some rows at a time, which stay in the processor's cache from one step to the next.
    """
    units = len(sums.x)
    rows, columns = scales_of(sums, objective)
    mixed = np.empty((units, units))
    centre = sums.y / max(sums.features, 1)
    step = max(1, BLOCK_BYTES // (8 * max(units, 1)))
    for begin in range(0, units, step):
        part = slice(begin, begin + step)
        into = mixed[part]
        if objective == "inner":
            np.multiply(sums.products[part], alpha, out=into)
        else:
            np.multiply(sums.x[part, None], centre, out=into)
            np.subtract(sums.products[part], into, out=into)
            into *= (alpha * rows[part])[:, None]
            into *= columns
        if seen is not None:
            into += (1.0 - alpha) * seen[part]
    return mixed, rows, columns


def unit_columns(view: NDArray[Any], occurrence: Occurrence, leaf: int) -> Iterator[Floats]:
    """A view of a block as [units, features] for the units at one place, in float64, some columns at a time.

    Features in which some unit is infinite (the row of a table that a mask reads) are left out.
    """
    for (own,) in paired_columns(occurrence, leaf, view):
        yield own


def paired_columns(occurrence: Occurrence, leaf: int, *views: NDArray[Any]) -> Iterator[tuple[Floats, ...]]:
    """The same of several views at once; features that are infinite in any are left out of all."""
    chain = (*occurrence.outer[leaf], leaf)
    order = (*chain, *(axis for axis in range(views[0].ndim) if axis not in chain))
    units = math.prod(views[0].shape[axis] for axis in chain)
    sides = [view.transpose(order).reshape(units, math.prod(view.shape) // max(units, 1)) for view in views]
    step = max(1, CHUNK_BYTES // (8 * max(units, 1)))
    for begin in range(0, sides[0].shape[1], step):
        yield finite_features(*(side[:, begin : begin + step].astype(np.float64) for side in sides))


def finite_features(*sides: Floats) -> tuple[Floats, ...]:
    """The sides [..., features] without the features in which any of them is infinite anywhere; nan stays."""
    with np.errstate(invalid="ignore"):
        if all(np.isfinite(side.sum()) for side in sides):
            return sides
    kept = np.logical_and.reduce([~np.isinf(side).any(axis=tuple(range(side.ndim - 1))) for side in sides])
    return tuple(side[..., kept] for side in sides)


def scales_of(sums: UnitSums, objective: Objective) -> tuple[Floats, Floats]:
    """What products are scaled by for each unit of both models; linked terms are to be scaled in the same way."""
    return sums.scales() if objective == "correlation" else (np.ones_like(sums.x), np.ones_like(sums.y))


def weight_similarity(sums: UnitSums) -> Floats:
    """The correlation of each unit's weight vector with its partner's, [units], of sums that are paired."""
    rows, columns = sums.scales()
    return (sums.products - sums.x * sums.y / max(sums.features, 1)) * rows * columns
