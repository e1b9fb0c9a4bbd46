"""A refinement that was interrupted after any layer goes on with the next, to the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from onnxmerge.axes.infer import type_graph
from onnxmerge.merging.closed_form import aims, sample_size
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.model.trace import trace
from tests.merging.networks import FOLDED, KEPT, images, models, residual

T = TypeVar("T")


class Layers:
    """Those that are kept, by number, and how often one had to be solved."""

    def __init__(self, kept: dict[int, object]) -> None:
        self.kept = dict(kept)
        self.solved = 0

    def __call__(self, layer: int, compute: Callable[[], T], /) -> T:
        if layer not in self.kept:
            self.solved += 1
            self.kept[layer] = compute()
        found: T = self.kept[layer]  # type: ignore[assignment]
        return found


@pytest.mark.parametrize(
    ("text", "memory", "stretch"),
    [(KEPT, 1 << 30, 1 << 26), (FOLDED, 20_000, 1 << 26), (KEPT, 40_000, 1), (FOLDED, 60_000, 1)],
)
@pytest.mark.parametrize("name", REFINEMENTS)
def test_it_goes_on(name: str, text: str, memory: int, stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_size, "ROWS", 200)  # so that positions are drawn
    monkeypatch.setattr(aims, "STRETCH", stretch)
    sets, refinement = models(residual(text), residual(text, seed=9)), REFINEMENTS[name]
    found = trace(sets.template)
    typing = type_graph(sets.template, found, (sets.template.weights,))
    average = dict(combine(sets, typing, [{}]))

    def refined(layers: Layers) -> dict[str, bytes]:
        source = images(60, 20)
        own = (source, images(60, 20, seed=7)) if "own data" in refinement.needs else ()
        context = MergeContext(sets, typing, found.dtypes, average, source, own=own, memory=memory, kept=layers)
        weights = refinement.refine(context, [{}], refinement.options(), lambda _done, _of: None).weights
        return {each: array.tobytes() for each, array in weights.items()}

    every = Layers({})
    whole = refined(every)
    assert every.solved == 3
    for count in (1, 2):
        some = Layers({layer: every.kept[layer] for layer in sorted(every.kept)[:count]})
        assert (refined(some), some.solved) == (whole, 3 - count)
