"""FeatCal: solve linear layers so that they answer what each parent's layer would (arXiv 2605.13030).

In topological order, for each Conv, Gemm or MatMul: x_s are the rows that the layer reads in the merged network, whose
layers so far are solved, and x_t = a x_i + (1 - a) x_s with x_i those that parent i's own layer reads. With W_i and b_i
parent i's layer in the coordinates of the matched units, S the covariance of x_s, R_i that of x_s with x_t, p_i the
parents' shares and n the Frobenius norm of S,

    W = (N sum_i p_i W_i R_i^T / n + l W0) (N S / n + l I)^-1,

with W0 the merged network's weight, which the paper moves away from the base first: after a method for task vectors
that is its --scale. The bias is what the means leave; a layer without one is solved about zero.

The paper gives each parent data of its own, here all see the same; its pull is l = 0.05, ours was chosen on
fine-tunes of a small network (docs/task-vectors.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from onnxmerge.activations.patches import Picks, pick
from onnxmerge.activations.segments import MemoryBudget, Relay, blocked, feeds, frontier
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.contracts import Options, described
from onnxmerge.errors import UsageError
from onnxmerge.merging.closed_form.accumulator import no_data, not_finite
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.merging.closed_form.encode import encoded_plainly
from onnxmerge.merging.closed_form.ridge import Sums, factor, problem
from onnxmerge.merging.closed_form.sample_size import rows, sampled, too_wide
from onnxmerge.merging.closed_form.solution import Solution
from onnxmerge.merging.closed_form.targets import LayerTarget, input_orders, plan_layers
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.types import Array, Arrays, Floats, Positions
from onnxmerge.units.alignment import reordered
from onnxmerge.units.permutations import transported
from onnxmerge.units.zips import Matchings, Zipped


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatCalOptions(Options):
    """``own_input`` is a, ``pull`` is l."""

    own_input: float = field(
        default=0.25,
        metadata=described("How much of what a layer should answer to is the parent's own input.", least=0.0, most=1.0),
    )
    pull: float = field(default=2.0, metadata=described("How strongly a layer is pulled to what it was.", least=1e-9))


def featcal(
    context: MergeContext, matchings: Matchings, options: FeatCalOptions, progress: Report | None = None
) -> Refined:
    """Solve the linear layers of a network that was merged of parents matched one to one; see ``least_squares``.

    Raises UsageError for a zip, InputError where the data is empty or activations are not finite.
    """
    if isinstance(matchings, Zipped):
        raise UsageError("FeatCal takes matched units, one to one")
    model, typing, perms = context.models.template.model, context.typing, [{}, *matchings]
    targets, notes = plan_layers(model.graph, typing)
    targets = [target for target in targets if target.tensor not in context.alike]
    context = sampled(context, targets)
    found = Refined(notes=notes)
    if not context.source.sizes:
        raise no_data()
    current, budget = Overlay(context.weights, found.weights), MemoryBudget(context.memory)
    relays = [Relay(model, own, context.dtypes, budget, context.provider) for own in (current, *context.models.weights)]
    aligned = [transported(own, typing, order) for own, order in zip(context.models.weights, perms, strict=True)]
    for index, target in enumerate(targets):
        orders = input_orders(target, typing, perms)
        if orders is None or too_wide(target):
            notes.append(f"{target.layer.node}: inputs too many or not to be aligned by axes, so it stays as it is")
            continue
        edge = frontier(model.graph, blocked(model.graph, {later.node for later in targets[index:]}))
        passing = partial(_passing, context.source, relays, target, edge)
        layers = [
            _ParentLayer(target, own, order, options.own_input) for own, order in zip(aligned, orders, strict=True)
        ]
        solve = partial(_solved, context, (index, target), layers, current, options.pull, passing)
        found.weights.update(context.solved(index, solve, passing))
        if progress is not None:
            progress(index + 1, len(targets))
    return found


def _passing(
    source: CalibrationSource, relays: Sequence[Relay], target: LayerTarget, edge: Sequence[str]
) -> Iterator[tuple[Arrays, list[Array]]]:
    """Run all networks past a layer: for each batch what it reads and answers merged, and what each parent's reads."""
    merged = relays[0].segment([target.source, target.layer.output], edge)
    parents = [relay.segment([target.source], edge) for relay in relays[1:]]
    for number, feed in enumerate(feeds(source, relays, len(source.sizes))):
        yield merged.run(number, feed), [parent.run(number, feed)[target.source] for parent in parents]


def _solved(
    context: MergeContext,
    numbered: tuple[int, LayerTarget],
    layers: Sequence[_ParentLayer],
    current: Arrays,
    pull: float,
    passing: Callable[[], Iterator[tuple[Arrays, list[Array]]]],
) -> dict[str, Array]:
    """The initializers of a layer, solved for what the parents' ``layers`` answer."""
    index, target = numbered
    rng, sums, batches = np.random.default_rng([context.seed, index]), _LayerSums(context.parts), context.source.sizes
    for given, theirs in passing():
        picks = pick(given[target.layer.output].shape, target.axis, rows(target, len(batches)), rng)
        reads = target.form.rows(given[target.source], picks)
        sums.add(reads, [layer(reads, own, picks) for layer, own in zip(layers, theirs, strict=True)])
    return encoded_plainly(target, current, sums.solved(target, current, pull))


@dataclass(frozen=True, slots=True, eq=False)
class _ParentLayer:
    """What one parent's layer answers: its weights in the common order, ``order`` that of its own input."""

    target: LayerTarget
    weights: Arrays
    order: Mapping[int, Positions]
    own_input: float

    def __call__(self, reads: NDArray[np.float32], own: NDArray[np.float32], picks: Picks) -> NDArray[np.float32]:
        """The answers [groups, n, u] to what the merged layer reads [groups, n, d], mixed with what it reads itself."""
        layer, form = self.target.layer, self.target.form
        mixed = (1 - self.own_input) * reads + self.own_input * form.rows(reordered(own, self.order), picks)
        if not np.isfinite(mixed).all():
            raise not_finite(self.target)
        answers = mixed @ form.matrix(self.weights[layer.weight]).transpose(0, 2, 1).astype(np.float32)
        if layer.bias is not None:
            bias = np.asarray(self.weights[layer.bias], np.float32) * np.float32(layer.bias_scale)
            answers += bias.reshape(len(answers), 1, -1)
        return np.asarray(answers, np.float32)


class _LayerSums:
    """Sums of one layer's inputs with the mean of what the parents answer to them, by their shares."""

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = shares
        self.sums: Sums | None = None

    def add(self, reads: NDArray[np.float32], answers: Sequence[NDArray[np.float32]]) -> None:
        """Add rows [groups, n, d], and each parent's answers to them [groups, n, u]."""
        if not reads.shape[1]:
            return
        aim = np.sum([np.float32(share) * each for share, each in zip(self.shares, answers, strict=True)], axis=0)
        if self.sums is None:
            self.sums = Sums(reads.mean(axis=1, dtype=np.float64), aim.mean(axis=1, dtype=np.float64)[None])
        self.sums.add(reads, aim[None])

    def solved(self, target: LayerTarget, current: Arrays, pull: float) -> Solution:
        """The layer. Raises InputError where there is no data, or activations are not finite."""
        if self.sums is None:
            raise no_data()
        prior = target.form.matrix(current[target.layer.weight])
        groups, units, features = prior.shape
        zero = np.zeros((groups, features)), np.zeros((groups, units))
        whole = problem(self.sums, np.ones((1, groups, units)), None if target.biased else zero)
        if not (np.isfinite(whole.xx).all() and np.isfinite(whole.xy).all()):
            raise not_finite(target)
        residual = whole.xy - whole.xx @ prior.transpose(0, 2, 1)
        weight: Floats = prior.copy()
        for group, products in enumerate(whole.xx):
            added = pull * float(np.linalg.norm(products)) / len(self.shares)
            if added > 0:
                weight[group] += cho_solve(factor(products, added), residual[group]).T
        bias = whole.y - np.einsum("gud,gd->gu", weight, whole.x)
        return Solution(weight, bias, pull, float(np.mean(whole.errors(weight))))


METHOD = Refinement(
    name="featcal",
    summary="solve each linear layer for what the parents' layers answer to its input (FeatCal)",
    source="arXiv 2605.13030",
    label="FeatCal",
    refine=featcal,
    options=FeatCalOptions,
    restores=False,
    one_to_one=True,
    any_start=True,
    rank=2,
)
