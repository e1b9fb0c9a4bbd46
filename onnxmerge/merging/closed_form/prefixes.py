"""The merged network, as far as it is solved, and its parents: run from layer to layer, and measured at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.patches import pick, values_at
from onnxmerge.activations.segments import Purse, Relay, feeds
from onnxmerge.calibration.batches import count, each
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.closed_form.amounts import ROWS, rows
from onnxmerge.merging.closed_form.consensus import Consensus
from onnxmerge.merging.closed_form.draft import Draft
from onnxmerge.merging.closed_form.goals import Goal, Settling
from onnxmerge.merging.closed_form.tally import Evidence, Tally, no_data
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.session import open_session, run
from onnxmerge.units.alignment import Meeting, reordered

AGREEING = 2048
"""Samples from which is learnt where each parent's answers vary."""


class Prefixes:
    """All networks on their way through the layers; ``changed`` are the merged network's weights that are solved.

    Raises InputError where there is no data.
    """

    def __init__(self, draft: Draft, changed: dict[str, NDArray[Any]]) -> None:
        model, purse = draft.models.template.model, Purse(draft.memory)
        self.draft = draft
        self.current = Overlay(draft.weights, changed)
        self.merged = Relay(draft.merged.model, self.current, draft.dtypes, purse, draft.provider)
        self.parents = [Relay(model, own, draft.dtypes, purse, draft.provider) for own in draft.models.weights]
        self.batches = count(draft.source)
        if not self.batches:
            raise no_data()
        self.rng = np.random.default_rng(draft.seed)

    def evidence(self, goal: Goal, units: Meeting, agreed: Consensus | None, edge: Sequence[str]) -> Evidence:
        """What one layer is solved from; ``edge`` is what the network behind it reads of the network before.

        Raises InputError where there is no data, or activations are not finite.
        """
        wanted = [goal.source] if goal.shortcut is None else [goal.source, goal.shortcut]
        merged = self.merged.segment(wanted, edge)
        parents = [parent.segment([goal.target], edge) for parent in self.parents]
        tally, share = Tally(goal, units, agreed), rows(goal, self.batches)
        for index, feed in enumerate(feeds(self.draft.source, [self.merged, *self.parents], self.batches)):
            given = merged.run(index, feed)
            targets = [
                reordered(parent.run(index, feed)[goal.target], order)
                for parent, order in zip(parents, units.before, strict=True)
            ]
            tally.add(index, given, targets, share, self.rng)
        return tally.evidence()

    def moments(self, step: Settling, edge: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance of each channel of what reaches a BatchNormalization now; InputError without data."""
        segment = self.merged.segment([step.source], edge)
        seen, total, squares = 0, np.zeros(()), np.zeros(())
        for index, feed in enumerate(feeds(self.draft.source, [self.merged], self.batches)):
            value = np.moveaxis(segment.run(index, feed)[step.source], 1, -1).astype(np.float64)
            value = value.reshape(-1, value.shape[-1])
            seen += len(value)
            total, squares = total + value.sum(axis=0), squares + np.square(value).sum(axis=0)
        if not seen:
            raise no_data()
        mean = total / seen
        return mean, np.maximum(squares / seen - mean**2, 0.0)

    def answers(self, goal: Goal) -> list[NDArray[np.float32]]:
        """What each parent gives at the goal's target, for some samples from all over the data [positions, units]."""
        found, model, share = [], self.draft.models.template.model, -(-ROWS // self.batches)
        for own in self.draft.models.weights:
            session = open_session(
                model, weights=own, outputs=[goal.target], provider=self.draft.provider, optimise=True
            )
            rng = np.random.default_rng(self.draft.seed)
            parts = []
            for feed in each(Spread(self.draft.source, AGREEING)):
                value = run(session, dict(feed))[goal.target]
                parts.append(values_at(value, goal.axis, pick(value.shape, goal.axis, share, rng)))
            found.append(np.concatenate(parts))
        return found
