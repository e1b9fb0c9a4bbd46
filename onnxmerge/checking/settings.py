"""What a model is to be held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxmerge.checking.schema import Interface
from onnxmerge.checking.targets import Target
from onnxmerge.model.sample import SampleInput

FILES = ("onnxmerge.toml", "pyproject.toml")
"""Where a repository of models says what they are held to (``checking.config``)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What gates need to know. A bound of None is no gate: what it bounds is measured, where that costs little.

    ``max_drop`` and ``max_ensemble_drop`` are in points of accuracy, ``min_agreement`` is a share from 0 to 1,
    ``max_error`` relative to the largest value; ``max_size_ratio``, ``max_parameters_ratio`` and ``max_latency_ratio``
    are against the first parent. ``only`` and ``skip`` are families of gates.
    """

    targets: tuple[Target, ...] = ()
    schema: Interface | None = None
    certify: bool = False
    min_agreement: float | None = None
    max_error: float | None = None
    max_drop: float | None = None
    max_ensemble_drop: float | None = None
    max_size_ratio: float | None = None
    max_parameters_ratio: float | None = None
    max_latency_ratio: float | None = None
    reproduce: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    inputs: Mapping[str, SampleInput] = field(default_factory=dict)
    operators: Path | None = None
    seed: int = 0
    provider: str = "cpu"

    def selects(self, family: str) -> bool:
        """Whether ``only`` and ``skip`` leave a family in."""
        return (not self.only or family in self.only) and family not in self.skip
