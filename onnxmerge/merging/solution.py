"""From the sums of one layer to its new weights: aim, solve, restore the deviation, store.

Averaging parents that disagree shrinks the variance of a target, and least squares shrinks what it cannot explain. So
the parents' mean is first spread, unit by unit, to the parents' own deviation s* (the mean of theirs),

    target = m + (T - m) s*/std(T)    less the merged shortcut, where the layer writes onto a stream,

and the solution is scaled once more so that the target tensor has the deviation s* in the merged network. What has no
bias is measured about zero, since its mean cannot be set apart: a unit that hardly varies about a large mean, such as
a coordinate that all classes share, must not be scaled by how little it varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.merging.goals import Goal, Norm
from onnxmerge.merging.ridge import Array, Problem, Sums, choose, problem, ridge

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

DEAD = 1e-4
"""A target that varies less than this share of its parents is not spread, a unit that does is not scaled."""

FACTORS = (0.5, 2.0)
"""What a branch on a stream may be scaled by: the stream's deviation depends on its shortcut too."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What was measured for a layer: sums over rows to fit and held out, and the parents' moments.

    The sums' targets are the parents' mean and, where there is one, the merged shortcut. ``deviation`` [groups, u] is
    the mean over parents of each unit's standard deviation, ``size`` that of the root mean square about zero.
    """

    fit: Sums
    held: Sums
    deviation: Array
    size: Array


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A layer y = W x + b: ``weight`` [groups, u, d] and ``bias`` [groups, u], with how well it does.

    ``ridge`` is the one chosen, relative to the mean diagonal; ``error`` the mean squared error on held-out rows as
    a share of the target's variance.
    """

    weight: Array
    bias: Array
    ridge: float
    error: float


def solve(goal: Goal, current: Arrays, evidence: Evidence) -> Solution:
    """The layer that meets its goal best, with ``current`` weights as the prior."""
    total = evidence.fit.joined(evidence.held)
    shape = total.y.shape
    centre = None if goal.biased else (np.zeros_like(total.x), np.zeros(shape[1:]))
    wanted = evidence.deviation if goal.biased else evidence.size
    mean = problem(total, _weights(shape, first=1.0), centre)
    spread = _ratio(wanted, np.sqrt(mean.yy))
    aim = _weights(shape, first=spread, rest=-1.0)
    whole, prior = problem(total, aim, centre), matrix(goal, current)
    best, error = _chosen(problem(evidence.fit, aim, centre), aim, evidence, prior, biased=goal.biased)
    weight = ridge(whole, prior, best)
    shortcut = problem(total, _weights(shape, rest=1.0), centre) if len(total.y) > 1 else None
    weight = weight * _factors(weight, whole, shortcut, wanted)[:, :, None]
    offset = (1 - spread) * mean.y if goal.biased else 0.0
    bias = whole.y + offset - np.einsum("gud,gd->gu", weight, whole.x)
    return Solution(weight, bias, best, error)


def matrix(goal: Goal, current: Arrays) -> Array:
    """The layer's weight as it is [groups, u, d], with the scale of its BatchNormalization."""
    weight = goal.form.matrix(current[goal.layer.weight])
    norm = goal.norm
    if norm is None:
        return weight
    gain = _wide(current, norm.scale) / np.sqrt(_wide(current, norm.variance) + norm.epsilon)
    return weight * gain.reshape(weight.shape[:2])[:, :, None]


def stored(goal: Goal, current: Arrays, evidence: Evidence, solution: Solution) -> dict[str, NDArray[Any]]:
    """The initializers that make the layer (with its BatchNormalization) compute the solution, in their own types."""
    layer, old = goal.layer, current[goal.layer.weight]
    if goal.norm is not None:
        return _stored_with_norm(goal, goal.norm, current, evidence, solution)
    found = {layer.weight: goal.form.weight(solution.weight, old)}
    if layer.bias is not None:
        like = current[layer.bias]
        found[layer.bias] = (solution.bias / layer.bias_scale).reshape(like.shape).astype(like.dtype)
    return found


def _stored_with_norm(
    goal: Goal, norm: Norm, current: Arrays, evidence: Evidence, solution: Solution
) -> dict[str, NDArray[Any]]:
    """Each unit's weight keeps its length; the statistics are those the layer has now, scale and shift do the rest.

    Where the shift is shared the mean does its part instead.
    """
    layer, old = goal.layer, current[goal.layer.weight]
    total = evidence.fit.joined(evidence.held)
    lengths, before = (np.linalg.norm(each, axis=-1) for each in (solution.weight, goal.form.matrix(old)))
    factor = np.where((lengths > 0) & (before > 0), before / np.where(lengths > 0, lengths, 1.0), 1.0)
    weight = solution.weight * factor[:, :, None]
    inputs = problem(total, _weights(total.y.shape, first=1.0), None)
    own = 0.0 if layer.bias is None else _wide(current, layer.bias).reshape(factor.shape) * layer.bias_scale
    mean = np.einsum("gud,gd->gu", weight, inputs.x) + own
    variance = inputs.spread(weight)
    values = {
        norm.scale: np.sqrt(variance + norm.epsilon) / factor,
        norm.variance: variance,
    }
    if norm.shared:
        values[norm.mean] = own + (_wide(current, norm.bias).reshape(factor.shape) - solution.bias) * factor
    else:
        values |= {norm.mean: mean, norm.bias: solution.bias + (mean - own) / factor}
    found = {layer.weight: goal.form.weight(weight, old)}
    for name, value in values.items():
        found[name] = value.reshape(current[name].shape).astype(current[name].dtype)
    return found


def _chosen(fit: Problem, aim: Array, evidence: Evidence, prior: Array, *, biased: bool) -> tuple[float, float]:
    if not evidence.held.count:
        return choose(fit, fit, prior)
    about = (fit.x, fit.y) if biased else (np.zeros_like(fit.x), np.zeros_like(fit.y))
    return choose(fit, problem(evidence.held, aim, about), prior)


def _factors(weight: Array, whole: Problem, shortcut: Problem | None, wanted: Array) -> Array:
    """What each unit is multiplied by so that the target tensor, shortcut included, has the deviation ``wanted``."""
    own = whole.spread(weight)
    if shortcut is None:
        return _ratio(wanted, np.sqrt(np.maximum(own, 0.0)))
    both = np.einsum("gud,gdu->gu", weight, shortcut.xy)
    root = both**2 - own * (shortcut.yy - wanted**2)  # of own f^2 + 2 both f + shortcut = wanted^2
    solvable = (root > 0) & (own > (DEAD * wanted) ** 2)
    factors = (np.sqrt(np.maximum(root, 0.0)) - both) / np.where(solvable, own, 1.0)
    return np.where(solvable, np.clip(factors, *FACTORS), 1.0)


def _ratio(wanted: Array, found: Array) -> Array:
    alive = found > DEAD * wanted
    return np.where(alive, wanted / np.where(alive, found, 1.0), 1.0)


def _weights(shape: tuple[int, ...], *, first: Array | float = 0.0, rest: float = 0.0) -> Array:
    """Coefficients [k, groups, u] of the targets: the parents' mean, then the shortcut."""
    found = np.full(shape, rest)
    found[0] = first
    return found


def _wide(current: Arrays, name: str) -> Array:
    return np.asarray(current[name], np.float64)
