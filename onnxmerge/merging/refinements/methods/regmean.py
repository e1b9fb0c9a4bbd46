"""RegMean: average linear layers by what the parents' layers read (Jin et al., ICLR 2023, arXiv 2212.09849, section 3).

For each Conv, Gemm or MatMul, with G_m the Gram matrix of the rows that parent m's own layer reads, off its diagonal
times OFF_DIAGONAL, and W_m the layer's weight, both in the coordinates of the matched units,

    W = (sum_m W_m G_m) (sum_m G_m)^-1,

which gives what is closest, in mean square, to what each parent's layer gives on its own inputs. Biases and all else
stay as they were merged. The paper takes each model's training data, as --calib-of does; without it all parents see the
same calibration data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np

from onnxmerge.activations.patches import pick
from onnxmerge.activations.segments import MemoryBudget, Relay, blocked, feeds, frontier
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.contracts import Options
from onnxmerge.errors import UsageError
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.merging.closed_form.failures import no_data, not_finite
from onnxmerge.merging.closed_form.ridge import Problem, ridge
from onnxmerge.merging.closed_form.sample_size import rows, sampled, too_wide
from onnxmerge.merging.closed_form.targets import LayerTarget, input_orders, plan_layers
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.types import Array, Arrays, Floats, Positions
from onnxmerge.units.alignment import reordered
from onnxmerge.units.permutations import transported
from onnxmerge.units.zips import Matchings, Zipped

OFF_DIAGONAL = 0.95
"""Just below 1, as in the paper: correlations seen by chance count less, and the sum can be inverted."""

RIDGE = 1e-6
"""The pull to the average, relative to the mean diagonal: it decides for inputs that are never active."""


def regmean(
    context: MergeContext, matchings: Matchings, _options: Options | None = None, progress: Report | None = None
) -> Refined:
    """Average the linear layers of the parents, matched one to one, by their Gram matrices; see ``least_squares``.

    Raises UsageError for a zip, InputError where the data is empty or activations are not finite.
    """
    return averaged_by_grams(context, matchings, progress, merged_prefix=False)


def averaged_by_grams(
    context: MergeContext, matchings: Matchings, progress: Report | None, *, merged_prefix: bool
) -> Refined:
    """The layers averaged by Gram matrices of what they read in the parents, or in the merged network (RegMean++).

    Raises UsageError for a zip, InputError where the data is empty or activations are not finite.
    """
    if isinstance(matchings, Zipped):
        raise UsageError("RegMean takes matched units, one to one")
    models, typing, perms = context.models, context.typing, [{}, *matchings]
    graph, budget = models.template.graph, MemoryBudget(context.memory)
    targets, notes = plan_layers(graph, typing)
    targets = [target for target in targets if target.tensor not in context.alike]
    context = sampled(context, targets)
    found = Refined(notes=notes)
    current = Overlay(context.weights, found.weights)
    networks = [current] * len(models.weights) if merged_prefix else models.weights
    relays = [Relay(models.template.model, own, context.dtypes, budget, context.provider) for own in networks]
    aligned = [transported(own, typing, order) for own, order in zip(models.weights, perms, strict=True)]
    sources = context.own or (context.source,) * len(relays)
    if not all(source.sizes for source in sources):
        raise no_data()
    for index, target in enumerate(targets):
        orders = [{}] * len(relays) if merged_prefix else input_orders(target, typing, perms)
        if orders is None or too_wide(target):
            notes.append(f"{target.layer.node}: inputs too many or not to be aligned by axes, so it stays the average")
            continue
        edge = frontier(graph, blocked(graph, {later.node for later in targets[index:]}))
        passing = partial(_passing, sources, relays, target, edge)
        solve = partial(_solved, context, (index, target), orders, aligned, passing)
        found.weights[target.layer.weight] = context.solved(index, solve, passing)
        if progress is not None:
            progress(index + 1, len(targets))
    return found


def _passing(
    sources: Sequence[CalibrationSource], relays: Sequence[Relay], target: LayerTarget, edge: Sequence[str]
) -> Iterator[tuple[int, int, Arrays]]:
    """Run one parent's data after the other past a layer.

    Gives the parent's number, how many batches it has, and what the layer reads and answers in each.
    """
    for parent, (source, relay) in enumerate(zip(sources, relays, strict=True)):
        segment, batches = relay.segment([target.source, target.layer.output], edge), len(source.sizes)
        for number, feed in enumerate(feeds(source, [relay], batches)):
            yield parent, batches, segment.run(number, feed)


def _solved(
    context: MergeContext,
    numbered: tuple[int, LayerTarget],
    orders: Sequence[Mapping[int, Positions]],
    aligned: Sequence[Arrays],
    passing: Callable[[], Iterator[tuple[int, int, Arrays]]],
) -> Array:
    """The weight of a layer, by what it reads in each parent; ``aligned`` are their weights in the common order."""
    index, target = numbered
    form, name = target.form, target.layer.weight
    prior = form.matrix(context.weights[name])
    xy, xx = np.zeros(prior.transpose(0, 2, 1).shape), np.zeros((*prior.shape[::2], prior.shape[2]))
    for (parent, batches), given in groupby(passing(), key=itemgetter(0, 1)):
        count = rows(target, batches)
        found = _gram(target, (batch for *_, batch in given), orders[parent], count, [context.seed, index])
        gram = context.parts[parent] * found
        xx += gram
        xy += gram @ form.matrix(aligned[parent][name]).transpose(0, 2, 1)
    solved = ridge(Problem(np.zeros(0), np.zeros(0), xx, xy, np.zeros(0)), prior, RIDGE)
    return form.weight(solved, context.weights[name])


def _gram(
    target: LayerTarget, batches: Iterable[Arrays], order: Mapping[int, Positions], count: int, seed: list[int]
) -> Floats:
    """The mean Gram matrices [groups, d, d] of what one parent's layer reads, damped off the diagonal."""
    d, rng, seen = target.features, np.random.default_rng(seed), 0
    total = np.zeros((target.form.groups, d, d))
    for found in batches:
        picks = pick(found[target.layer.output].shape, target.axis, count, rng)
        x = target.form.rows(reordered(found[target.source], order), picks)
        total += x.transpose(0, 2, 1) @ x
        seen += x.shape[1]
    if not np.isfinite(total).all():
        raise not_finite(target)
    return np.where(np.eye(d) > 0, total, OFF_DIAGONAL * total) / max(seen, 1)


METHOD = Refinement(
    name="regmean",
    summary="average each linear layer by the Gram matrices of what the parents' layers read (RegMean)",
    source="Jin et al., arXiv 2212.09849",
    label="RegMean",
    refine=regmean,
    options=Options,
    restores=False,
    one_to_one=True,
    any_start=True,
    rank=1,
)
