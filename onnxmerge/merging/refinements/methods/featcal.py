"""FeatCal: solve linear layers so that they answer what each parent's layer would (arXiv 2605.13030).

In topological order, for each Conv, Gemm or MatMul: x_s are the rows that the layer reads in the merged network, whose
layers so far are solved, on the data of parent i (--calib-of; without it all see the same), and x_t = a x_i + (1 - a)
x_s with x_i those that parent i's own layer reads. With W_i parent i's weight in the coordinates of the matched units,
S_i the covariance of x_s, R_i that of x_s with x_t, n_i the Frobenius norm of S_i, p_i the parents' shares of N,

    W = (N sum_i p_i W_i R_i^T / n_i + l A) (N sum_i p_i S_i / n_i + l I)^-1,    A = W0 + r (W_merged - W0),

with W0 the base's weight (where there is no base, A is the merged network's). The bias is what the means leave, all
rows weighed as here; a layer without one is solved about zero.

With data of each parent's own, l = 0.05, r = 2.2 and a = 0.25 are the paper's. On data that all share, l = 2 and r = 1
were chosen on fine-tunes of a small network (docs/task-vectors.md). The paper also solves scales and shifts of
normalisations, which stay here as they were merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.patches import Picks, pick
from onnxmerge.activations.segments import MemoryBudget, Relay, blocked, feeds, frontier
from onnxmerge.calibration.progress import Report
from onnxmerge.contracts import AUTO, NumberOrAuto, Options, described, number
from onnxmerge.errors import UsageError
from onnxmerge.merging.closed_form.context import MergeContext, Refined, Seen
from onnxmerge.merging.closed_form.encode import encoded_plainly
from onnxmerge.merging.closed_form.failures import no_data, not_finite
from onnxmerge.merging.closed_form.ridge import RowBlocks, Sums, problem, solved, weighed
from onnxmerge.merging.closed_form.sample_size import rows, sampled, too_wide
from onnxmerge.merging.closed_form.solution import Solution
from onnxmerge.merging.closed_form.targets import LayerTarget, input_orders, plan_layers
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.types import Array, Arrays, Floats, Positions
from onnxmerge.units.alignment import reordered
from onnxmerge.units.permutations import transported
from onnxmerge.units.zips import Matchings, Zipped

PULL, OWN_PULL = 2.0, 0.05
"""How strongly a layer is pulled to what it was: where all parents see the same data, and where each has its own."""

MOVED = 2.2
"""How far from the base what a layer is pulled to is moved, where each parent has data of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatCalOptions(Options):
    """``own_input`` is a, ``pull`` is l, ``moved`` is r."""

    own_input: float = field(
        default=0.25,
        metadata=described("How much of what a layer should answer to is the parent's own input.", least=0.0, most=1.0),
    )
    pull: NumberOrAuto = field(
        default=AUTO,
        metadata=described(
            f"How strongly a layer is pulled to what it was; auto: {PULL:g}, with --calib-of {OWN_PULL:g}.",
            least=1e-9,
            auto=True,
        ),
    )
    moved: NumberOrAuto = field(
        default=AUTO,
        metadata=described(
            "What a layer is pulled to lies so many times as far from the base as what was merged; auto: 1, with "
            f"--calib-of {MOVED:g}.",
            least=0.0,
            auto=True,
        ),
    )


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
    current, budget = Overlay(context.weights, found.weights), MemoryBudget(context.memory)
    aligned = [transported(own, typing, order) for own, order in zip(context.models.weights, perms, strict=True)]
    shown = [_Shown(context, seen, current, budget) for seen in context.seen]
    for index, target in enumerate(targets):
        orders = input_orders(target, typing, perms)
        if orders is None or too_wide(target):
            notes.append(f"{target.layer.node}: inputs too many or not to be aligned by axes, so it stays as it is")
            continue
        edge = frontier(model.graph, blocked(model.graph, {later.node for later in targets[index:]}))
        layers = [
            _ParentLayer(target, own, order, options.own_input) for own, order in zip(aligned, orders, strict=True)
        ]
        passing = partial(_passing, shown, target, edge)
        solve = partial(_solved, context, (index, target), layers, current, options, passing)
        found.weights.update(context.solved(index, solve, passing))
        if progress is not None:
            progress(index + 1, len(targets))
    return found


class _Shown:
    """Data on its way through the merged network, and through the parents that it is for.

    Raises InputError where there is none.
    """

    def __init__(self, context: MergeContext, seen: Seen, current: Arrays, budget: MemoryBudget) -> None:
        if not seen.source.sizes:
            raise no_data()
        self.seen = seen
        networks = [current, *(context.models.weights[parent] for parent in seen.parents)]
        model = context.models.template.model
        self.relays = [Relay(model, own, context.dtypes, budget, context.provider) for own in networks]

    def past(self, target: LayerTarget, edge: Sequence[str]) -> Iterator[tuple[Arrays, list[Array]]]:
        """Run past a layer: for each batch what it reads and answers merged, and what each parent's reads."""
        merged = self.relays[0].segment([target.source, target.layer.output], edge)
        parents = [relay.segment([target.source], edge) for relay in self.relays[1:]]
        for index, feed in enumerate(feeds(self.seen.source, self.relays, len(self.seen.source.sizes))):
            yield merged.run(index, feed), [parent.run(index, feed)[target.source] for parent in parents]


def _passing(
    shown: Sequence[_Shown], target: LayerTarget, edge: Sequence[str]
) -> Iterator[tuple[Seen, Arrays, list[Array]]]:
    """Run everything past a layer, with whose data it is."""
    for data in shown:
        for merged, parents in data.past(target, edge):
            yield data.seen, merged, parents


def _solved(
    context: MergeContext,
    numbered: tuple[int, LayerTarget],
    layers: Sequence[_ParentLayer],
    current: Arrays,
    options: FeatCalOptions,
    passing: Callable[[], Iterator[tuple[Seen, Arrays, list[Array]]]],
) -> dict[str, Array]:
    """The initializers of a layer, solved for what the parents' ``layers`` answer."""
    index, target = numbered
    rng, sums = np.random.default_rng([context.seed, index]), _LayerSums(context.parts)
    for seen, given, theirs in passing():
        count = rows(target, len(seen.source.sizes))
        picks = pick(given[target.layer.output].shape, target.axis, count, rng)
        reads = target.form.rows(given[target.source], picks)
        answers = [layers[parent](reads, own, picks) for parent, own in zip(seen.parents, theirs, strict=True)]
        sums.add(seen.parents, reads, answers)
    weight = target.layer.weight
    prior = target.form.matrix(current[weight])
    own = bool(context.own)
    pull = (OWN_PULL if own else PULL) if options.pull == AUTO else number(options.pull, "pull")
    moved = (MOVED if own else 1.0) if options.moved == AUTO else number(options.moved, "moved")
    if context.base is not None and moved != 1:
        base = target.form.matrix(context.base[weight])
        prior = base + moved * (prior - base)
    return encoded_plainly(target, current, sums.solved(target, prior, pull))


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
    """Sums of one layer's inputs with what the parents that see them answer to them, by their shares."""

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = shares
        self.sums: dict[tuple[int, ...], RowBlocks] = {}
        self.shifts: tuple[Floats, Floats] | None = None

    def add(self, parents: tuple[int, ...], reads: NDArray[np.float32], answers: Sequence[NDArray[np.float32]]) -> None:
        """Add rows [groups, n, d] of data of some parents, and the answers of each of these [groups, n, u]."""
        if not reads.shape[1]:
            return
        shares = np.array([self.shares[parent] for parent in parents], np.float32)
        aim = np.sum([share * each for share, each in zip(shares / shares.sum(), answers, strict=True)], axis=0)
        if parents not in self.sums:
            if self.shifts is None:
                self.shifts = reads.mean(axis=1, dtype=np.float64), aim.mean(axis=1, dtype=np.float64)[None]
            self.sums[parents] = RowBlocks(Sums(*self.shifts))
        self.sums[parents].add(reads, aim[None])

    def solved(self, target: LayerTarget, anchor: Floats, pull: float) -> Solution:
        """The layer, pulled to ``anchor``. Raises InputError where there is no data, or activations are not finite."""
        if not self.sums:
            raise no_data()
        groups, units, features = anchor.shape
        zero = None if target.biased else (np.zeros((groups, features)), np.zeros((groups, units)))
        one = np.ones((1, groups, units))
        parts: list[Floats] = []  # N p_i / n_i of the formula, for each of the groups
        every = {parents: blocks.sums() for parents, blocks in self.sums.items()}
        for parents, sums in every.items():
            products = problem(sums, one, zero).xx
            if not (np.isfinite(products).all() and np.isfinite(sums.xy).all()):
                raise not_finite(target)
            size = np.linalg.norm(products, axis=(1, 2))
            share = len(self.shares) * sum(self.shares[parent] for parent in parents)
            parts.append(np.where(size > 0, share / np.where(size > 0, size, 1.0), 0.0))
        whole = np.sum(parts, axis=0)
        weights = [np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 1 / len(parts)) for part in parts]
        found = problem(weighed([*every.values()], weights), one, zero)
        residual = found.residual(anchor)
        weight: Floats = anchor.copy()
        for group, products in enumerate(found.xx):
            if whole[group] > 0:
                weight[group] += solved(products, pull / whole[group], residual[group]).T
        mean = np.einsum("gud,gd->gu", weight, found.x)
        error = float(np.mean(found.errors(weight)))
        return Solution(weight, found.y - mean, pull, error, mean, found.spread(weight))


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
