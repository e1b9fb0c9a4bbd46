"""The repairs, by name: which statistics of their units layers get anew (REPAIR: Jordan et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmerge.contracts import Contract, Need, Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(Contract[Options]):
    """Sets the ``mean`` of a unit, its standard deviation ``std``, or both."""

    mean: bool = True
    std: bool = True
    source: str = "Jordan et al., arXiv 2211.08403"
    options: type[Options] = Options
    needs: tuple[Need, ...] = ("activations",)


REPAIRS: Mapping[str, Repair] = {
    each.name: each
    for each in (
        Repair(name="repair", summary="mean and standard deviation of every unit (REPAIR)"),
        Repair(name="rescale", summary="its standard deviation alone (RESCALE)", mean=False),
        Repair(name="bias", summary="its mean alone", std=False),
    )
}
