"""A recipe: everything that one run of ``onnxmerge run`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxmerge.errors import UsageError
from onnxmerge.pipeline.options import MergeOptions


def of_models(models: Sequence[str], given: Sequence[tuple[str, str]], what: str) -> dict[str, str]:
    """Data of each model's own by the model's path, in the order of ``models``, from (name, data) in any order.

    A name is a path as ``models`` has it, or the name of its file. ``what`` says in messages where it was given.

    Raises UsageError for a name of no model or of several, data that is given twice, or a model without any.
    """
    names = ", ".join(models)
    found: dict[str, str] = {}
    for name, data in given:
        called = [model for model in models if model == name] or [model for model in models if Path(model).name == name]
        if not called:
            raise UsageError(f"{what} {name}: is none of the models; they are {names}")
        if len(called) > 1:
            raise UsageError(f"{what} {name}: several models are called so, of {names}; give the path of one")
        if called[0] in found:
            raise UsageError(f"{what} {name}: has data twice; put it into one folder")
        found[called[0]] = data
    lacking = [model for model in models if model not in found]
    if given and lacking:
        raise UsageError(
            f"{what}: {lacking[0]} has no data of its own; give that of each model, or all tasks mixed (--calib)"
        )
    return {model: found[model] for model in models if model in found}


SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Unlabelled data, and how images become inputs (see the options of the command line).

    ``data`` is for all models, ``of`` has that of each model's own, by the model's path; at least one of them is given.
    """

    data: str | None = None
    of: Mapping[str, str] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["nchw", "nhwc"] | None = None

    @property
    def image_options(self) -> dict[str, Any]:
        """What was said of images."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "of") and value is not None}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to merge, on what, how, and where to; paths as a shell in the current folder understands them.

    ``inputs`` are shapes (such as 1,3,224,224) or .npy files of inputs that models or data do not say enough of.
    ``vocab`` has the token list of each model, and that of the base behind them, where vocabularies differ.
    ``labels`` decide what is chosen; ``tasks`` (a file, or each in one line) and class ``vectors`` say what they mean.
    """

    models: tuple[str, ...]
    base: str | None = None
    vocab: tuple[str, ...] = ()
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
