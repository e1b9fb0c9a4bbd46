"""+ls: solve a merged network's linear layers, one after another, for the parents' matched activations.

In topological order, for each Conv, Gemm or MatMul: X are the rows that the layer reads in the merged network, whose
layers so far are solved; Y is the mean over parents of their matched values of the tensor that the layer aims at
(``targets``), each parent on its own prefix. The layer becomes

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

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from onnxmerge.activations.segments import blocked, frontier
from onnxmerge.calibration.progress import Report
from onnxmerge.contracts import Options, described
from onnxmerge.merging.closed_form.consensus import Consensus, consensus
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.merging.closed_form.encode import encoded, matrix, settled
from onnxmerge.merging.closed_form.prefix_runner import PrefixRunner
from onnxmerge.merging.closed_form.sample_size import sampled, too_wide
from onnxmerge.merging.closed_form.sensitivity import OutputSensitivity
from onnxmerge.merging.closed_form.solution import solve
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_targets
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.types import Array, Floats
from onnxmerge.units.alignment import UnitAlignment, align_units
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
    found = Refined(notes=notes)
    runner = PrefixRunner(context, found.weights)
    felt = OutputSensitivity(context) if options.sensitivity > 0 else None
    for index, step in enumerate(steps):
        edge = frontier(graph, blocked(graph, {later.node for later in steps[index:]}))
        if not isinstance(step, LayerTarget):
            found.weights.update(settled(step, runner.current, runner.moments(step, edge)))
        elif too_wide(step):
            notes.append(_left(step, "reads too many features"))
        elif (
            units := align_units(typing.activations[step.tensor], step.axis, typing, matchings, context.parts)
        ) is None:
            notes.append(_left(step, f"{step.tensor} cannot be aligned by axes"))
        else:
            chances = partial(_chances, context, felt, index, options.sensitivity)
            weights, runner.rng.bit_generator.state = context.solved(
                index, partial(_solved, runner, step, units, edge, chances), partial(runner.passing, step, edge)
            )
            found.weights.update(weights)
        if progress is not None:
            progress(index + 1, len(steps))
    return found


def _chances(
    context: MergeContext,
    felt: OutputSensitivity | None,
    index: int,
    a: float,
    target: LayerTarget,
    edge: Sequence[str],
) -> Floats | None:
    """How often each position counts among the rows of layer number ``index``; None where all count alike."""
    found = None if felt is None else felt(target, edge, (context.seed, index))
    return None if found is None else np.where(found > 0, a * found + (1 - a) / found.size, 0.0)


def _solved(
    runner: PrefixRunner,
    step: LayerTarget,
    units: UnitAlignment,
    edge: Sequence[str],
    chances: Callable[[LayerTarget, Sequence[str]], Floats | None],
) -> tuple[dict[str, Array], Mapping[str, Any]]:
    """The initializers of a layer that is solved, and where the random numbers are after it."""
    agreed = _agreed(runner, step, runner.context.directions)
    statistics = runner.statistics(step, units, agreed, edge, chances(step, edge))
    solution = solve(statistics, matrix(step, runner.current), biased=step.biased)
    return encoded(step, runner.current, statistics, solution), runner.rng.bit_generator.state


def _left(target: LayerTarget, why: str) -> str:
    return f"{target.layer.node}: {why}, so it is not solved by least squares; it stays the average"


def _agreed(runner: PrefixRunner, target: LayerTarget, directions: Collection[str]) -> Consensus | None:
    """How the parents' outputs are to be agreed on where they are directions; None where they are numbers."""
    if not target.last or target.output not in directions:
        return None
    return consensus(runner.answers(target), runner.context.parts)


METHOD = Refinement(
    name="ls",
    summary="solve each linear layer by least squares for the parents' activations (PLeaS)",
    source="Nasery et al., arXiv 2407.02447",
    label="least squares",
    refine=least_squares,
    options=LeastSquaresOptions,
    rank=0,
)
