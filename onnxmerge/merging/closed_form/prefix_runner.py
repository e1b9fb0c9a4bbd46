"""The merged network, as far as it is solved: run from layer to layer, and measured at each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.moments import Moments
from onnxmerge.activations.segments import MemoryBudget, Relay, feeds
from onnxmerge.merging.closed_form.accumulator import LayerAccumulator, LayerStatistics
from onnxmerge.merging.closed_form.aims import Aim
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.failures import no_data
from onnxmerge.merging.closed_form.targets import LayerTarget, Settling
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.types import Arrays


class PrefixRunner:
    """The merged network on its way through the layers; ``changed`` are its weights that are solved.

    Raises InputError where there is no data.
    """

    def __init__(self, context: MergeContext, changed: dict[str, NDArray[Any]], budget: MemoryBudget) -> None:
        self.source, self.batches = context.source, len(context.source.sizes)
        if not self.batches:
            raise no_data()
        self.current = Overlay(context.weights, changed)
        self.relay = Relay(context.merged.model, self.current, context.dtypes, budget, context.provider)

    def statistics(self, target: LayerTarget, aim: Aim, edge: Sequence[str]) -> LayerStatistics:
        """What one layer is solved from; ``edge`` is what the network from here on reads of the network before.

        Raises InputError where there is no data, or activations are not finite.
        """
        accumulator = LayerAccumulator(target, aim)
        for batch, given in self.passing(target, edge):
            accumulator.add(batch, given)
        return accumulator.statistics()

    def passing(self, target: LayerTarget, edge: Sequence[str]) -> Iterator[tuple[int, Arrays]]:
        """Run past a layer: each batch's number, and what the layer reads there."""
        wanted = [target.source] if target.shortcut is None else [target.source, target.shortcut]
        yield from self._run(wanted, edge)

    def moments(self, step: Settling, edge: Sequence[str]) -> Moments:
        """The moments of each channel of what reaches a BatchNormalization now; InputError without data."""
        found: Moments | None = None
        for _, given in self._run([step.source], edge):
            value = np.moveaxis(given[step.source], 1, -1)
            if value.size:
                own = Moments.of(value.reshape(-1, value.shape[-1]))
                found = own if found is None else found + own
        if found is None:
            raise no_data()
        return found

    def _run(self, wanted: Sequence[str], edge: Sequence[str]) -> Iterator[tuple[int, Arrays]]:
        segment = self.relay.segment(wanted, edge)
        for batch, feed in enumerate(feeds(self.source, [self.relay], self.batches)):
            yield batch, segment.run(batch, feed)
