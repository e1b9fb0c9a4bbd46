"""Solve a merged network's linear layers, one after another, for the parents' matched activations.

In topological order, for each Conv, Gemm or MatMul: X are the rows that the layer reads in the merged network, whose
layers so far are solved; Y is the mean over parents of their matched values of the tensor that the layer aims at
(``goals``), each parent on its own prefix. The layer becomes

    W = (Y X^T + lambda W0)(X X^T + lambda I)^-1

with W0 the matched average, a bias where it has one, and lambda chosen by reconstruction of held-out rows; then each
unit gets its parents' deviation back (``solution``). Closed form, no labels, no training.

Sources: PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447), section 4; RegMean (Jin et al., ICLR 2023, arXiv
2212.09849) for the closed form; REPAIR (Jordan et al., ICLR 2023, arXiv 2211.08403) for the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Typing
from onnxmerge.calibration.enough import LEAST
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.alignment import meeting, reordered
from onnxmerge.merging.batches import count, each
from onnxmerge.merging.combine import Matchings, Overlay, shares_of
from onnxmerge.merging.consensus import Consensus, consensus, is_direction
from onnxmerge.merging.goals import Goal, Settling, Step, plan_goals
from onnxmerge.merging.patches import pick, values_at
from onnxmerge.merging.segments import Purse, Relay, blocked, feeds, frontier
from onnxmerge.merging.solution import solve, stored
from onnxmerge.merging.tally import Tally, no_data
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session, run

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Rows: TypeAlias = NDArray[np.float32]
OutputScale: TypeAlias = Literal["auto", "keep", "unit"]

ROWS = 65_536
"""Positions that a layer is solved from at most, evenly over all batches; fewer where the data has fewer."""

ROWS_PER_FEATURE = 32
"""As many positions for each number that a unit is computed from are plenty."""

SAMPLES_PER_FEATURE = 8
"""Where a sample is one position (behind pooling), this many samples for each such number are taken."""

MEMORY = 1 << 30
"""Bytes of activations that may be kept between layers, of the merged network and its parents together."""

FEATURES = 8192
"""A layer that reads more numbers for each unit stays the average: its Gram matrix alone would take half a gigabyte."""

AGREEING = 2048
"""Samples from which is learnt where each parent's answers vary."""


@dataclass(slots=True, eq=False)
class Refined:
    """The initializers that changed, by name, and what to tell the user."""

    weights: dict[str, NDArray[Any]]
    notes: list[str]


def refine(
    models: ModelSet,
    typing: Typing,
    dtypes: Mapping[str, np.dtype[Any]],
    weights: Arrays,
    matchings: Matchings,
    source: CalibrationSource,
    *,
    shares: Sequence[float] | None = None,
    output_scale: OutputScale = "auto",
    traced: int | None = None,
    provider: str = "cpu",
    seed: int = 0,
    progress: Report | None = None,
    network: Network | None = None,
) -> Refined:
    """Solve every layer of the merged network with ``weights``, the matched average of ``models``.

    Args:
        models: The parents.
        typing: Of their common graph.
        dtypes: Of its tensors, as the trace found them.
        weights: The merged initializers, which are also what the ridge pulls to.
        matchings: One for each model but the first.
        source: Calibration data; read once, and again for each layer as long as activations exceed MEMORY.
        shares: Of the parents in the mean that layers aim at; equal by default.
        output_scale: ``unit`` gives every sample of every parent's output the same length before they are averaged,
            right where only the direction counts (an embedding that is compared by cosine), and lets each parent
            count where its answers vary (``consensus``); ``keep`` leaves them as they are, right for logits and
            regression. The file does not say which it is: ``auto`` looks at the outputs (``is_direction``).
        traced: The samples that the typing's shapes are of. With it, of much data as much is taken, from all over it,
            as solving the layers needs (None: all).
        provider: Where the networks run.
        seed: Of the sampled positions.
        progress: Told how many layers are done, and of how many.
        network: The graph that ``weights`` belong to, where groups of it are not as wide as the parents'.

    Raises InputError where the data is empty or activations are not finite.

    """
    network = network or models.template
    graph = network.graph
    steps, notes = plan_goals(graph, typing)
    if traced is not None:
        source = Spread(source, max([LEAST, *(_samples(step, typing, traced) for step in steps)]))
    parts = shares_of(shares, len(models.weights))
    work = _Work(
        network, models, typing, dtypes, weights, matchings, source, parts, output_scale, provider, seed, notes
    )
    for index, step in enumerate(steps):
        edge = frontier(graph, blocked(graph, {later.node for later in steps[index:]}))
        if isinstance(step, Goal):
            work.refine(step, edge)
        else:
            work.settle(step, edge)
        if progress is not None:
            progress(index + 1, len(steps))
    return Refined(work.changed, notes)


def _samples(step: Step, typing: Typing, traced: int) -> int:
    """How many samples a layer needs to be solved from."""
    if not isinstance(step, Goal) or step.features > FEATURES:
        return 0
    shape = typing.activations[step.target].shape
    positions = max(np.prod(shape) / shape[step.layer.channel_axis] / traced, 1)
    return int(np.ceil(SAMPLES_PER_FEATURE * step.features / positions))


@dataclass(slots=True, eq=False)
class _Work:
    """The networks on their way through the layers."""

    network: Network
    models: ModelSet
    typing: Typing
    dtypes: Mapping[str, np.dtype[Any]]
    weights: Arrays
    matchings: Matchings
    source: CalibrationSource
    shares: Sequence[float]
    output_scale: OutputScale
    provider: str
    seed: int
    notes: list[str]
    changed: dict[str, NDArray[Any]] = field(default_factory=dict)
    current: Arrays = field(init=False)
    merged: Relay = field(init=False)
    parents: list[Relay] = field(init=False)
    batches: int = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        model, purse = self.models.template.model, Purse(MEMORY)
        self.current = Overlay(self.weights, self.changed)
        self.merged = Relay(self.network.model, self.current, self.dtypes, purse, self.provider)
        self.parents = [Relay(model, own, self.dtypes, purse, self.provider) for own in self.models.weights]
        self.batches = count(self.source)
        self.rng = np.random.default_rng(self.seed)

    def refine(self, goal: Goal, edge: Sequence[str]) -> None:
        """Solve one layer; ``edge`` is what the network behind it reads of the network before."""
        channel, layout = goal.layer.channel_axis, self.typing.activations[goal.target]
        units = meeting(layout, channel, self.typing, self.matchings, self.shares)
        if units is None or goal.features > FEATURES:
            why = "reads too many features" if goal.features > FEATURES else f"{goal.target} cannot be aligned by axes"
            self.notes.append(f"{goal.layer.node}: {why}, so it is not solved by least squares; it stays the average")
            return
        wanted = [goal.source] if goal.shortcut is None else [goal.source, goal.shortcut]
        merged = self.merged.segment(wanted, edge)
        parents = [parent.segment([goal.target], edge) for parent in self.parents]
        agreed = self._consensus(goal) if goal.last else None
        rows = min(ROWS, ROWS_PER_FEATURE * max(goal.features, LEAST))
        tally = Tally(goal, units, agreed)
        for index, feed in enumerate(feeds(self.source, [self.merged, *self.parents], self.batches)):
            given = merged.run(index, feed)
            targets = [
                reordered(parent.run(index, feed)[goal.target], order)
                for parent, order in zip(parents, units.before, strict=True)
            ]
            tally.add(index, given, targets, -(-rows // self.batches), self.rng)
        evidence = tally.evidence()
        self.changed.update(stored(goal, self.current, evidence, solve(goal, self.current, evidence)))

    def _consensus(self, goal: Goal) -> Consensus | None:
        """How the parents' outputs are to be agreed on where they are directions; None where they are numbers."""
        if self.output_scale == "keep":
            return None
        model, channel = self.models.template.model, goal.layer.channel_axis
        answers = []
        for weights in self.models.weights:
            session = open_session(model, weights=weights, outputs=[goal.target], provider=self.provider)
            rng = np.random.default_rng(self.seed)
            parts = []
            for feed in each(Spread(self.source, AGREEING)):
                found = run(session, dict(feed))[goal.target]
                parts.append(values_at(found, channel, pick(found.shape, channel, -(-ROWS // self.batches), rng)))
            answers.append(np.concatenate(parts))
        if self.output_scale == "auto" and not all(map(is_direction, answers)):
            return None
        return consensus(answers, self.shares)

    def settle(self, step: Settling, edge: Sequence[str]) -> None:
        """Give a BatchNormalization that stands by itself the statistics of what reaches it now."""
        segment = self.merged.segment([step.source], edge)
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for index, feed in enumerate(feeds(self.source, [self.merged], self.batches)):
            value = np.moveaxis(segment.run(index, feed)[step.source], 1, -1).astype(np.float64)
            value = value.reshape(-1, value.shape[-1])
            count += len(value)
            total, squares = total + value.sum(axis=0), squares + np.square(value).sum(axis=0)
        if not count:
            raise no_data()
        mean = total / count
        for name, array in ((step.norm.mean, mean), (step.norm.variance, squares / count - mean**2)):
            like = self.current[name]
            self.changed[name] = np.maximum(array, 0.0 if name == step.norm.variance else -np.inf).astype(like.dtype)
