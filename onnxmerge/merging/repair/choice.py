"""What ``--repair`` means for a given network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.contracts import AUTO
from onnxmerge.merging.repair.plan import Which, applies, plan_repair
from onnxmerge.merging.repair.repairs import REPAIRS, Repair
from onnxmerge.model.normalisation import batchnorms
from onnxmerge.units.layout import Typing

_LAYERS = {"free": "hidden layers", "fixed": "output layers", "all": "all layers"}


@dataclass(frozen=True, slots=True)
class RepairStep:
    """Which linear layers are repaired, and how."""

    which: Which
    mode: Repair

    @property
    def label(self) -> str:
        return f"{self.mode.name} ({_LAYERS[self.which]})"

    @property
    def hidden(self) -> bool:
        """Whether it is done to hidden layers too."""
        return self.which != "fixed"

    @property
    def whole(self) -> bool:
        """Whether units get both their mean and their standard deviation."""
        return self.mode.mean and self.mode.std


def repair_step(graph: ir.Graph, typing: Typing, choice: str) -> RepairStep | None:
    """The layers to repair after BatchNorm statistics, if any, were re-estimated, by rule; None for no repair.

    Hidden layers: where BatchNorm is kept, its statistics do it; where it was folded away (``applies``), all of them
    must be repaired; elsewhere they are left alone unless the user asks (LayerNorm and its kin restore the scale).
    Output layers are repaired in each case: their units are aligned by definition, and their variance collapses like
    any other's while their bias keeps its size, so that without repair the answers crowd around their mean.
    """
    if choice == "none":
        return None
    everywhere = not batchnorms(graph) and (choice != AUTO or applies(graph, typing))
    return RepairStep("all" if everywhere else "fixed", REPAIRS["repair" if choice == AUTO else choice])


def repair_steps(graph: ir.Graph, typing: Typing) -> tuple[RepairStep | None, ...]:
    """All that may be chosen from, the one of ``repair_step`` first, no repair (None) last.

    What does the same as another, or nothing, is left out: without a bias there is no mean to be set.
    """
    places: tuple[Which, ...] = ("fixed",) if batchnorms(graph) else ("fixed", "all")
    every = [RepairStep(which, mode) for which in places for mode in _modes(graph, typing, which)]
    return tuple(dict.fromkeys([repair_step(graph, typing, AUTO), *every, None]))


def reach(steps: Sequence[RepairStep | None]) -> Which | None:
    """The layers that any of the steps changes; None where none does."""
    places = {step.which for step in steps if step is not None}
    return "all" if "all" in places else next(iter(places), None)


def _modes(graph: ir.Graph, typing: Typing, which: Which) -> list[Repair]:
    """The repairs that differ in what they do to these layers."""
    layers = plan_repair(graph, typing, which).layers
    hidden = plan_repair(graph, typing, "free").layers if which == "all" else layers
    if any(layer.bias is not None for layer in hidden):
        return list(REPAIRS.values())
    if any(layer.bias is not None for layer in layers):
        return [mode for mode in REPAIRS.values() if mode.std]
    return [REPAIRS["repair"]]


def label(step: RepairStep | None) -> str:
    """What is done, for people."""
    return "none" if step is None else step.label
