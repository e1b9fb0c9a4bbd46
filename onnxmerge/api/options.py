"""How to merge: the options of the API and of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.matching.similarity import Objective
from onnxmerge.merging.least_squares import OutputScale
from onnxmerge.merging.repair_choice import RepairChoice

Refinement = Literal["none", "ls"]
HeadsChoice = Literal["auto", "joint", "separate"]


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge.

    ``alpha`` is the weight of weight-space similarity (mudsc-align, mudsc-zip). ``objective`` is the weight-space
    similarity of rebasin: ``correlation``, or ``inner`` for the inner product of the original paper. ``repair``
    "auto" repairs output layers, and hidden ones where BatchNorm was folded away.
    ``refine`` "ls" solves every linear layer anew by least squares after matching, in place of any repair;
    ``output_scale`` says whether it takes outputs as they are or as directions (see `least_squares.refine`).
    ``samples`` bounds the calibration data (None: all of it). ``zip_a`` and ``zip_b`` are a and b of the zip methods:
    what the similarity of merged units is multiplied by, and the share of its merges that a model may use up inside
    itself.
    ``heads`` "separate" merges up to the last linear layers and keeps what comes behind for each model, with outputs
    of its own; "auto" does so where the models' trailing parts differ, from where they differ. ``until`` names the
    last nodes (or tensors) to merge instead, and implies separate heads. ``held_out`` is the share of the calibration
    batches, the last ones, that is kept from everything but the comparison of the result with its parents.
    ``share`` below 1 merges that fraction of each group's units, the most similar ones, and keeps the others apart.
    """

    method: str = "mudsc-align"
    alpha: float = 0.5
    objective: Objective = "correlation"
    repair: RepairChoice = "auto"
    refine: Refinement = "none"
    output_scale: OutputScale = "auto"
    seed: int = 0
    samples: int | None = None
    zip_a: float = 0.5
    zip_b: float = 1.0
    batch_size: int = BATCH_SIZE
    provider: str = "auto"
    operators: Path | None = None
    heads: HeadsChoice = "auto"
    until: tuple[str, ...] = ()
    held_out: float = 0.0
    share: float = 1.0
