"""A recipe: everything that one run of ``onnxmerge run`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxmerge.pipeline.options import MergeOptions

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Unlabelled data, and how images become inputs (see the options of the command line)."""

    data: str
    image_size: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["nchw", "nhwc"] | None = None

    @property
    def image_options(self) -> dict[str, Any]:
        """What was said of images."""
        return {name: value for name, value in asdict(self).items() if name != "data" and value is not None}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to merge, on what, how, and where to; paths as a shell in the current folder understands them.

    ``inputs`` are shapes (such as 1,3,224,224) or .npy files of inputs that models or data do not say enough of.
    ``labels`` decide what is chosen; ``tasks`` (a file, or each in one line) and class ``vectors`` say what they mean.
    """

    models: tuple[str, ...]
    base: str | None = None
    calibration: Calibration | None = None
    labels: str | None = None
    tasks: str | tuple[str, ...] | None = None
    vectors: str | None = None
    output: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: MergeOptions = field(default_factory=MergeOptions)


def is_recipe(argument: str) -> bool:
    """Whether an argument of the command line names a recipe."""
    return Path(argument).suffix.lower() in SUFFIXES
