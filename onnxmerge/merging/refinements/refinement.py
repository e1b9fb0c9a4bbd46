"""What a refinement is: what it does to the matched average of models, and what may follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnxmerge.calibration.progress import Report
from onnxmerge.contracts import Contract, Need, O
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.units.zips import Matchings

Refine: TypeAlias = Callable[[MergeContext, Matchings, O, Report], Refined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement(Contract[O]):
    """A way to change the initializers of an average, by calibration data: what ``refine`` gives takes their place.

    ``label`` says what was done. ``restores``: units have their statistics back, so that no repair follows, and it is
    one of the repairs that a search chooses from. ``one_to_one``: it cannot follow a zip. ``any_start``: it may follow
    a method for task vectors too, for it pulls to what was merged, whatever that is.
    """

    label: str
    refine: Refine[O]
    needs: tuple[Need, ...] = ("activations",)
    restores: bool = True
    one_to_one: bool = False
    any_start: bool = False
