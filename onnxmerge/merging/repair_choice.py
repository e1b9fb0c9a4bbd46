"""What ``--repair`` means for a given network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxmerge.axes.layout import Typing
from onnxmerge.merging.batchnorm import batchnorms
from onnxmerge.merging.repair import Which, applies

RepairChoice = Literal["auto", "none", "rescale", "repair"]
_LAYERS = {"free": "hidden layers", "fixed": "output layers", "all": "all layers"}


@dataclass(frozen=True, slots=True)
class RepairStep:
    """Which linear layers are repaired, and how."""

    which: Which
    mode: Literal["rescale", "repair"]

    @property
    def label(self) -> str:
        return f"{self.mode} ({_LAYERS[self.which]})"


def repair_step(graph: ir.Graph, typing: Typing, choice: RepairChoice) -> RepairStep | None:
    """The layers to repair after BatchNorm statistics, if any, were re-estimated; None for no repair.

    Hidden layers: where BatchNorm is kept, its statistics do it; where it was folded away (``applies``), all of them
    must be repaired; elsewhere they are left alone unless the user asks (LayerNorm and its kin restore the scale).
    Output layers are repaired in each case: their units are aligned by definition, and their variance collapses like
    any other's while their bias keeps its size, so that without repair the answers crowd around their mean.
    """
    if choice == "none":
        return None
    everywhere = not batchnorms(graph) and (choice != "auto" or applies(graph, typing))
    return RepairStep("all" if everywhere else "fixed", "rescale" if choice == "rescale" else "repair")
