"""What a run was asked for: a recipe, and in front of it what the command line says itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxmerge.api import MergeOptions
from onnxmerge.cli.tasks import take_tasks
from onnxmerge.errors import UsageError
from onnxmerge.recipes.recipe import Calibration, Recipe, is_recipe

_IMAGE = ("image_size", "mean", "std", "layout")


def asked_for(context: click.Context, models: tuple[str, ...]) -> Recipe:
    """The recipe that ``models`` names, or that consists of them, with the options given on the command line.

    Raises UsageError where a recipe stands beside models, or there is no model at all.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    recipe = _start(models)
    options = {name: given[name] for name in MergeOptions.__dataclass_fields__ if name in given}
    return Recipe(
        recipe.models,
        base=_path(given.get("base"), recipe.base),
        calibration=_calibration(recipe, given),
        labels=_path(given.get("labels"), recipe.labels),
        tasks=take_tasks(given) or recipe.tasks,
        vectors=_path(given.get("vectors"), recipe.vectors),
        output=_path(given.get("output"), recipe.output),
        options=replace(recipe.options, **options),
    )


def _path(given: str | Path | None, otherwise: str | None) -> str | None:
    return otherwise if given is None else str(given)


def _start(models: tuple[str, ...]) -> Recipe:
    if not any(map(is_recipe, models)):
        return Recipe(models)
    if len(models) > 1:
        raise UsageError(f"{next(filter(is_recipe, models))}: a recipe names its models itself; leave the others out")
    from onnxmerge.recipes.file import read_recipe  # pydantic is slow to import, and needed for recipes alone

    return read_recipe(models[0])


def _calibration(recipe: Recipe, given: Mapping[str, Any]) -> Calibration | None:
    images = {name: given[name] for name in _IMAGE if name in given}
    if given.get("calib") is not None:
        return Calibration(given["calib"], **images)
    if recipe.calibration is None:
        if images:
            raise UsageError(f"--{next(iter(images)).replace('_', '-')} is for calibration images: give them (--calib)")
        return None
    return Calibration(**{**asdict(recipe.calibration), **images})


def require_other_output(recipe: Recipe) -> Path:
    """Where to write. Raises UsageError where that is not said, or is one of the models."""
    if recipe.output is None:
        raise UsageError("where is the merged model to go? give -o OUTPUT, or `output:` in the recipe")
    read = {Path(model).absolute() for model in (*recipe.models, *([] if recipe.base is None else [recipe.base]))}
    if Path(recipe.output).absolute() in read:
        raise UsageError(f"-o {recipe.output} is one of the models to merge; choose another name")
    return Path(recipe.output)
