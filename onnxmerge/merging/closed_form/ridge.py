"""Ridge regression from sums alone: rows are seen once, added to Gram matrices and forgotten.

For one target or several at once, in groups (the groups of a convolution), with a prior that the ridge pulls to:

    W = W0 + (Y - W0 X) X^T (X X^T + lambda I)^-1

which is (Y X^T + lambda W0)(X X^T + lambda I)^-1 written so that a prior that is right stays as it is to the last bit
of its residual. A layer with a bias is solved about the means, so the bias is never pulled to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.types import Floats, Positions

LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges to choose from, relative to the mean diagonal of X X^T."""

START = 1e-2
"""The ridge where the search begins: what most layers end up with at some thousand rows."""

JUDGES = 128
"""Units of a layer whose errors choose its ridge: all have one, and their mean error is known well enough."""

RESOLUTION = 64 * float(np.finfo(np.float32).eps)
"""The least error, as a share of a unit's mean square, that can be told from none: networks compute in float32, and so
are products summed. Units whose summands cancel come near it."""

AT_ONCE = 256
"""Rows whose products are summed in float32, at most: the rounding of more nears what RESOLUTION takes for none."""

_AXES = {"x": (0, 1), "y": (1, 1), "xx": (0, 2), "xy": (1, 2), "yy": (2, 1)}
"""The axes before and behind that of the groups, of each of the sums."""


@dataclass(slots=True, eq=False)
class Sums:
    """Sums over rows of inputs x [groups, d] and of k targets y [k, groups, u], about fixed shifts.

    ``xx`` [groups, d, d], ``xy`` [k, groups, d, u]; ``yy`` [k, k, groups, u] holds the products of each unit with
    itself alone. The shifts are the first rows' means: in float32 a product of large means would drown the rest.
    """

    shift_x: Floats
    shift_y: Floats
    count: int = 0
    x: Floats = field(init=False)
    y: Floats = field(init=False)
    xx: Floats = field(init=False)
    xy: Floats = field(init=False)
    yy: Floats = field(init=False)

    def __post_init__(self) -> None:
        groups, d = self.shift_x.shape
        k, _, u = self.shift_y.shape
        self.x, self.y = np.zeros((groups, d)), np.zeros((k, groups, u))
        self.xx, self.xy = np.zeros((groups, d, d)), np.zeros((k, groups, d, u))
        self.yy = np.zeros((k, k, groups, u))

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add rows x [groups, n, d] and y [k, groups, n, u]."""
        x = x - self.shift_x[:, None].astype(np.float32)
        y = y - self.shift_y[:, :, None].astype(np.float32)
        self.count += x.shape[1]
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=2, dtype=np.float64)
        turned = x.transpose(0, 2, 1)
        self.xx += turned @ x
        for index, target in enumerate(y):
            self.xy[index] += turned @ target
            for other in range(len(y)):
                self.yy[index, other] += np.einsum("gnu,gnu->gu", target, y[other])

    def joined(self, other: Sums) -> Sums:
        """Both sets of rows, in the arrays of this one, which are used up; they must have the same shifts."""
        self.count += other.count
        for name in _AXES:
            own = getattr(self, name)
            np.add(own, getattr(other, name), out=own)
        return self


class RowBlocks:
    """Adds rows to ``sums`` as `Sums.add` does, AT_ONCE at a time: fewer are waited for, more are cut."""

    def __init__(self, sums: Sums) -> None:
        self._sums, self._waiting, self._rows = sums, list[tuple[NDArray[np.float32], NDArray[np.float32]]](), 0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add rows x [groups, n, d] and y [k, groups, n, u]."""
        self._waiting.append((x, y))
        self._rows += x.shape[1]
        if self._rows >= AT_ONCE:
            self._flush()

    def sums(self) -> Sums:
        """The sums of all rows so far."""
        self._flush()
        return self._sums

    def _flush(self) -> None:
        if self._rows:
            every_x, every_y = zip(*self._waiting, strict=True)
            self._waiting, self._rows = [], 0
            x, y = np.concatenate(every_x, axis=1), np.concatenate(every_y, axis=2)
            for start in range(0, x.shape[1], AT_ONCE):
                self._sums.add(x[:, start : start + AT_ONCE], y[:, :, start : start + AT_ONCE])


def weighed(every: Sequence[Sums], weights: Sequence[Floats]) -> Sums:
    """The mean over the rows of each, times its weight for each group [groups], added up; it counts as one row.

    All must have the same shifts, and the weights add up to 1 in each group.
    """
    total = Sums(every[0].shift_x, every[0].shift_y, 1)
    for sums, weight in zip(every, weights, strict=True):
        for name, (before, behind) in _AXES.items():
            part = (weight / sums.count).reshape((1,) * before + (-1,) + (1,) * behind)
            setattr(total, name, getattr(total, name) + part * getattr(sums, name))
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One regression in mean products: ``xx`` [groups, d, d], ``xy`` [groups, d, u], ``yy`` [groups, u].

    They are about the point (``x``, ``y``), the means; about zero for a layer without a bias.
    """

    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    def errors(self, weight: Floats) -> Floats:
        """Mean squared error of each unit [groups, u] under a weight [groups, u, d]."""
        explained = 2 * np.einsum("gud,gdu->gu", weight, self.xy) - self.spread(weight)
        return np.asarray(np.maximum(self.yy - explained, 0.0))

    def residual(self, weight: Floats) -> Floats:
        """The products [groups, d, u] of the inputs with what a weight leaves of the targets."""
        return np.asarray(self.xy - self.xx @ weight.transpose(0, 2, 1))

    def spread(self, weight: Floats) -> Floats:
        """The mean square of what the weight gives [groups, u], about its mean for a layer with a bias."""
        return np.asarray(np.einsum("gud,gud->gu", weight @ self.xx, weight))

    def of(self, units: Positions) -> Problem:
        """The regression of some units of each group alone."""
        return Problem(self.x, self.y[:, units], self.xx, self.xy[:, :, units], self.yy[:, units])


def problem(sums: Sums, coefficients: Floats, about: tuple[Floats, Floats] | None) -> Problem:
    """The regression of sum_k coefficients[k] y_k on x; ``coefficients`` [k, groups, u] weigh each unit's targets.

    ``about`` is the point that products are taken about; None for the means of these rows.
    """
    mean, dx = sums.shift_x + sums.x / sums.count, sums.x / sums.count  # products are about the shifts
    xx = sums.xx / sums.count
    xx -= dx[:, :, None] * dx[:, None, :]
    if about is not None:
        far = mean - about[0]
        xx += far[:, :, None] * far[:, None, :]
    at, xy, yy = aimed(sums, coefficients, about)
    return Problem(mean if about is None else about[0], at, xx, xy, yy)


def aimed(sums: Sums, coefficients: Floats, about: tuple[Floats, Floats] | None) -> tuple[Floats, Floats, Floats]:
    """The ``y``, ``xy`` and ``yy`` of the `problem`."""
    dx, dy = sums.x / sums.count, (coefficients * sums.y).sum(axis=0) / sums.count
    xy = (coefficients[0] / sums.count)[:, None] * sums.xy[0]
    for coefficient, own in zip(coefficients[1:], sums.xy[1:], strict=True):
        xy += (coefficient / sums.count)[:, None] * own
    xy -= dx[:, :, None] * dy[:, None, :]
    mean, yy = moments((sums,), coefficients)
    if about is None:
        return mean, xy, yy
    far_x, far_y = sums.shift_x + dx - about[0], mean - about[1]
    xy += far_x[:, :, None] * far_y[:, None, :]
    return about[1], xy, yy + far_y**2


def moments(every: Sequence[Sums], coefficients: Floats) -> tuple[Floats, Floats]:
    """The mean and the variance [groups, u] of sum_k coefficients[k] y_k over all rows; the shifts are the same."""
    count = sum(sums.count for sums in every)
    dy: Floats = np.sum([sums.y for sums in every], axis=0) / count
    yy = np.sum([sums.yy for sums in every], axis=0) / count - dy[:, None] * dy[None]
    mean = (coefficients * (every[0].shift_y + dy)).sum(axis=0)
    return mean, np.einsum("kgu,lgu,klgu->gu", coefficients, coefficients, yy)


def ridge(found: Problem, prior: Floats, relative: float, residual: Floats | None = None) -> Floats:
    """The weight [groups, u, d] for one ridge, relative to the mean diagonal of the inputs' products.

    An infinite one keeps the prior, whose ``residual`` may be known.
    """
    weight = prior.copy()
    if relative == np.inf:
        return weight
    residual = found.residual(prior) if residual is None else residual
    for group, products in enumerate(found.xx):
        size = float(np.trace(products)) / len(products)
        if size <= 0:
            continue
        weight[group] += solved(products, relative * size, residual[group]).T
    return weight


def solved(products: Floats, added: float, right: Floats) -> Floats:
    """What (products + added I) maps to ``right`` [d, u]; ``products`` [d, d] are symmetric."""
    return np.asarray(scipy.linalg.cho_solve(factor(products, added), right, check_finite=False))


def factor(products: Floats, added: float) -> tuple[Floats, bool]:
    """The Cholesky factor with ``added`` on the diagonal, ten times more where that is less than products are exact to.

    They are sums in float32: where a few directions have nearly all that there is, rounding outweighs a small ridge.
    """
    while True:
        whole = products.T.copy(order="F")
        whole[np.diag_indices_from(whole)] += added
        try:
            found: tuple[Floats, bool] = scipy.linalg.cho_factor(
                whole, lower=True, overwrite_a=True, check_finite=False
            )
        except scipy.linalg.LinAlgError:
            added *= 10
        else:
            return found


def choose(fit: Problem, held: Problem, prior: Floats) -> tuple[float, float]:
    """The ridge of LAMBDAS with the least error on held-out rows, and that error as a share of the units' variance.

    The error has one valley as a rule, so the search goes downhill from the middle and leaves the far side alone. A
    prior without an error that can be told from none is kept: what a solution would change is rounding, which a small
    ridge multiplies in the directions that the data hardly has. JUDGES of the units, drawn from all, stand for them.
    """
    scale = np.maximum(held.yy, 1e-3 * held.yy.mean() + np.finfo(np.float64).tiny)
    every = prior.shape[1]
    some = np.sort(np.random.default_rng(0).permutation(every)[:JUDGES])
    before = held.of(some).errors(prior[:, some]) / scale[:, some]
    if len(some) < every and np.all(before <= RESOLUTION):
        before = held.errors(prior) / scale
    if np.all(before <= RESOLUTION):
        return np.inf, float(np.mean(before))
    fit, held, prior, scale = fit.of(some), held.of(some), prior[:, some], scale[:, some]
    errors, residual = dict[int, float](), fit.residual(prior)

    def error(index: int) -> float:
        if index not in errors:
            errors[index] = float(np.mean(held.errors(ridge(fit, prior, LAMBDAS[index], residual)) / scale))
        return errors[index]

    best = LAMBDAS.index(START)
    for step in (-1, 1):
        while 0 <= best + step < len(LAMBDAS) and error(best + step) < error(best):
            best += step
    return LAMBDAS[best], error(best)
