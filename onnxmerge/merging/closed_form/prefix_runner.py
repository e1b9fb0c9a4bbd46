"""The merged network, as far as it is solved, and its parents: run from layer to layer, and measured at each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.moments import Moments
from onnxmerge.activations.patches import pick, values_at
from onnxmerge.activations.segments import MemoryBudget, Relay, feeds
from onnxmerge.calibration.subset import Spread, cuts
from onnxmerge.merging.closed_form.accumulator import LayerAccumulator, LayerStatistics, no_data
from onnxmerge.merging.closed_form.consensus import Consensus
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.sample_size import ROWS, rows
from onnxmerge.merging.closed_form.targets import LayerTarget, Settling
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.session import open_session
from onnxmerge.types import Array, Arrays, Floats, Rows
from onnxmerge.units.alignment import UnitAlignment, reordered

AGREEING = 2048
"""Samples from which is learnt where each parent's answers vary."""

KEPT_BYTES = 1 << 26
"""Of such answers, at most so many are kept."""


class PrefixRunner:
    """All networks on their way through the layers; ``changed`` are the merged network's weights that are solved.

    Raises InputError where there is no data.
    """

    def __init__(self, context: MergeContext, changed: dict[str, NDArray[Any]]) -> None:
        model, budget = context.models.template.model, MemoryBudget(context.memory)
        self.context = context
        self.current = Overlay(context.weights, changed)
        self.merged = Relay(context.merged.model, self.current, context.dtypes, budget, context.provider)
        self.parents = [Relay(model, own, context.dtypes, budget, context.provider) for own in context.models.weights]
        self.batches = len(context.source.sizes)
        if not self.batches:
            raise no_data()
        self.rng = np.random.default_rng(context.seed)

    def statistics(
        self,
        target: LayerTarget,
        units: UnitAlignment,
        agreed: Consensus | None,
        edge: Sequence[str],
        chances: Floats | None = None,
    ) -> LayerStatistics:
        """What one layer is solved from; ``edge`` is what the network behind it reads of the network before.

        ``chances`` are those of positions to be among the rows (None: all alike).

        Raises InputError where there is no data, or activations are not finite.
        """
        accumulator, share = LayerAccumulator(target, units, agreed, chances), rows(target, self.batches)
        for index, given, theirs in self.passing(target, edge):
            targets = [reordered(own, order) for own, order in zip(theirs, units.before, strict=True)]
            accumulator.add(index, given, targets, share, self.rng)
        return accumulator.statistics()

    def passing(self, target: LayerTarget, edge: Sequence[str]) -> Iterator[tuple[int, Arrays, list[Array]]]:
        """Run all networks past a layer: each batch's number, what the layer reads there, and each parent's target."""
        wanted = [target.source] if target.shortcut is None else [target.source, target.shortcut]
        merged = self.merged.segment(wanted, edge)
        parents = [parent.segment([target.tensor], edge) for parent in self.parents]
        for index, feed in enumerate(feeds(self.context.source, [self.merged, *self.parents], self.batches)):
            yield index, merged.run(index, feed), [parent.run(index, feed)[target.tensor] for parent in parents]

    def moments(self, step: Settling, edge: Sequence[str]) -> Moments:
        """The moments of each channel of what reaches a BatchNormalization now; InputError without data."""
        segment = self.merged.segment([step.source], edge)
        found: Moments | None = None
        for index, feed in enumerate(feeds(self.context.source, [self.merged], self.batches)):
            value = np.moveaxis(segment.run(index, feed)[step.source], 1, -1)
            if value.size:
                own = Moments.of(value.reshape(-1, value.shape[-1]))
                found = own if found is None else found + own
        if found is None:
            raise no_data()
        return found

    def answers(self, target: LayerTarget) -> list[Rows]:
        """What each parent gives at the layer's target, for some samples from all over the data [positions, units].

        The parents are run for it once for all that is solved on the same data, if it is not too much to keep.
        """
        context = self.context
        key = context.models, target.tensor, cuts(context.source)
        if key in context.answers:
            return context.answers[key]
        found, model, share = list[Rows](), context.models.template.model, -(-ROWS // self.batches)
        for own in context.models.weights:
            session = open_session(
                model, weights=own, outputs=[target.tensor], provider=context.provider, optimise=True
            )
            rng = np.random.default_rng(context.seed)
            parts = []
            for feed in Spread(context.source, AGREEING):
                value = session.run(dict(feed))[target.tensor]
                parts.append(values_at(value, target.axis, pick(value.shape, target.axis, share, rng)))
            found.append(np.concatenate(parts))
        if sum(own.nbytes for own in found) <= KEPT_BYTES:
            context.answers[key] = found
        return found
