"""What ``--repair`` means for a given network."""

from __future__ import annotations

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
    """All that may be chosen from, the one of ``repair_step`` first, no repair (None) last."""
    every = [RepairStep("fixed", mode) for mode in REPAIRS.values()]
    if not batchnorms(graph):
        shifts = any(layer.bias is not None for layer in plan_repair(graph, typing, "free").layers)
        every += [RepairStep("all", mode) for mode in REPAIRS.values() if shifts or mode.std]
    return tuple(dict.fromkeys([repair_step(graph, typing, AUTO), *every, None]))


def label(step: RepairStep | None) -> str:
    """What is done, for people."""
    return "none" if step is None else step.label
