"""+ls: solve a merged network's linear layers, one after another, for the parents' matched activations.

In topological order, for each Conv, Gemm or MatMul: X are the rows that the layer reads in the merged network, whose
layers so far are solved; Y is the mean over parents of their matched values of the tensor that the layer aims at
(``targets``), each parent on its own prefix (``aims``). The layer becomes

    W = (Y X^T + lambda W0)(X X^T + lambda I)^-1

with W0 the matched average, a bias where it has one, and lambda chosen by reconstruction of held-out rows; then each
unit gets its parents' deviation back (``solution``). Closed form, no labels, no training.

Rows may be drawn by what the outputs feel of their positions (``closed_form.sensitivity``): with s_p the sensitivity of
position p of P, its chance is proportional to a s_p + (1 - a) / P, and 0 where s_p is. For a = 0 all positions count
alike, as they do by default: sensitivities take dozens of runs for each layer.

Sources: PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447), section 4; RegMean (Jin et al., ICLR 2023, arXiv
2212.09849) for the closed form; REPAIR (Jordan et al., ICLR 2023, arXiv 2211.08403) for the scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxmerge.activations.segments import MemoryBudget, blocked, frontier
from onnxmerge.calibration.progress import Report
from onnxmerge.contracts import Options, described
from onnxmerge.merging.closed_form.aims import ParentTargets, PlannedLayer
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.merging.closed_form.encode import encoded, matrix, settled
from onnxmerge.merging.closed_form.prefix_runner import PrefixRunner
from onnxmerge.merging.closed_form.sample_size import sampled, too_wide
from onnxmerge.merging.closed_form.sensitivity import OutputSensitivity
from onnxmerge.merging.closed_form.solution import solve
from onnxmerge.merging.closed_form.targets import LayerTarget, Settling, Step, plan_targets
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.types import Array, Floats
from onnxmerge.units.alignment import align_units
from onnxmerge.units.zips import Matchings


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSquaresOptions(Options):
    """``sensitivity`` is a."""

    sensitivity: float = field(
        default=0.0,
        metadata=described(
            "How much positions (tokens, pixels) count by what the outputs feel of them; 0: all alike",
            least=0.0,
            most=1.0,
            alone=True,
        ),
    )


DEFAULTS = LeastSquaresOptions()


def least_squares(
    context: MergeContext,
    matchings: Matchings,
    options: LeastSquaresOptions = DEFAULTS,
    progress: Report | None = None,
) -> Refined:
    """Solve every layer of the average of parents that was matched by ``matchings``.

    ``progress`` is told how many layers are done, and of how many. Raises InputError where the data is empty or
    activations are not finite.
    """
    graph, typing = context.merged.graph, context.typing
    steps, notes = plan_targets(graph, typing)
    steps = [step for step in steps if step.tensor not in context.alike]
    context = sampled(context, [step for step in steps if isinstance(step, LayerTarget)])
    # A budget for each: what one keeps, and so where it is cut, must be the same where a run is resumed.
    found, half = Refined(notes=notes), context.memory // 2
    runner = PrefixRunner(context, found.weights, MemoryBudget(half))
    planned = {layer.number: layer for layer in _planned(context, steps, matchings, notes)}
    felt = OutputSensitivity(context) if options.sensitivity > 0 else None
    chances = partial(_chances, context, felt, options.sensitivity)
    parents = ParentTargets(context, [*planned.values()], MemoryBudget(half), chances)
    for number, step in enumerate(steps):
        if isinstance(step, Settling):
            found.weights.update(settled(step, runner.current, runner.moments(step, _edge(graph, steps[number:]))))
        elif number in planned:
            layer = planned[number]
            solve, passing = partial(_solved, runner, parents, layer), partial(runner.passing, step, layer.edge)
            found.weights.update(context.solved(number, solve, passing))
        if progress is not None:
            progress(number + 1, len(steps))
    return found


def _planned(
    context: MergeContext, steps: Sequence[Step], matchings: Matchings, notes: list[str]
) -> Iterator[PlannedLayer]:
    """The layers that are solved; the others are added to ``notes``."""
    typing = context.typing
    for number, step in enumerate(steps):
        if not isinstance(step, LayerTarget):
            continue
        units = align_units(typing.activations[step.tensor], step.axis, typing, matchings, context.parts)
        if too_wide(step):
            notes.append(_left(step, "reads too many features"))
        elif units is None:
            notes.append(_left(step, f"{step.tensor} cannot be aligned by axes"))
        else:
            edge = _edge(context.merged.graph, steps[number:])
            directional = step.last and step.output in context.directions
            yield PlannedLayer(number, step, units, edge, directional)


def _edge(graph: ir.Graph, later: Sequence[Step]) -> tuple[str, ...]:
    """What the network from some steps on reads of the network before."""
    return tuple(frontier(graph, blocked(graph, {step.node for step in later})))


def _chances(context: MergeContext, felt: OutputSensitivity | None, a: float, layer: PlannedLayer) -> Floats | None:
    """How often each position counts among the rows of a layer; None where all count alike."""
    found = None if felt is None else felt(layer.target, layer.edge, (context.seed, layer.number))
    return None if found is None else np.where(found > 0, a * found + (1 - a) / found.size, 0.0)


def _solved(runner: PrefixRunner, parents: ParentTargets, layer: PlannedLayer) -> dict[str, Array]:
    """The initializers of a layer that is solved."""
    target = layer.target
    statistics = runner.statistics(target, parents.aim(layer.number), layer.edge)
    solution = solve(statistics, matrix(target, runner.current), biased=target.biased)
    return encoded(target, runner.current, solution)


def _left(target: LayerTarget, why: str) -> str:
    return f"{target.layer.node}: {why}, so it is not solved by least squares; it stays the average"


METHOD = Refinement(
    name="ls",
    summary="solve each linear layer by least squares for the parents' activations (PLeaS)",
    source="Nasery et al., arXiv 2407.02447",
    label="least squares",
    refine=least_squares,
    options=LeastSquaresOptions,
    rank=0,
)
