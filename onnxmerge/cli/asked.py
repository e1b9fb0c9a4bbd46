"""What a run was asked for: a recipe, and in front of it what the command line says itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxmerge.api import MergeOptions
from onnxmerge.cli.files import files_of
from onnxmerge.cli.options import require_allowed
from onnxmerge.cli.tasks import take_tasks
from onnxmerge.contracts import flag
from onnxmerge.errors import UsageError
from onnxmerge.pipeline.consistency import decidable, idle, require_use
from onnxmerge.pipeline.methods import OWN_OPTIONS
from onnxmerge.pipeline.options import COMMON, DEFAULT, ONE_WAY, UNNAMED, differing
from onnxmerge.pipeline.vocabulary import token_files
from onnxmerge.recipes.recipe import Calibration, Recipe, is_recipe, of_models

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
    if models and recipe.calibration is not None:
        named = [recipe.calibration.data] if given.get("calib") is None else []
        for data in (*named, *(() if given.get("calib_of") else recipe.calibration.of.values())):
            require_allowed(context, models[0], data)
    options = _options(
        recipe.options,
        {name: given[name] for name in COMMON if name in given},
        {name: given[name] for name in OWN_OPTIONS if name in given},
    )
    undecided = options.settled().effort is None and not decidable(options.settled())
    if undecided and decidable(recipe.options.settled()):
        recipe = replace(recipe, labels=None)  # labels that decided what the command line says now
        if options.settled().answer != "ensemble":
            recipe = replace(recipe, tasks=None, vectors=None)  # and what said what they mean
    return Recipe(
        recipe.models,
        base=_path(given.get("base"), recipe.base),
        vocab=given.get("vocab") or recipe.vocab,
        calibration=_calibration(recipe, given),
        labels=_path(given.get("labels"), recipe.labels),
        tasks=take_tasks(given) or recipe.tasks,
        vectors=_path(given.get("vectors"), recipe.vectors),
        output=_path(given.get("output"), recipe.output),
        inputs={**recipe.inputs, **given.get("inputs", {})},
        options=options,
    )


def _options(written: MergeOptions, given: Mapping[str, Any], own: Mapping[str, Any]) -> MergeOptions:
    """Those ``given`` on the command line before those of a recipe; raises UsageError where one has no effect.

    ``own`` are those that method and refinement have of their own.

    What a recipe says of another method than the one that is given goes with it, and so does an effort with a method.
    """
    one_way = [*(name for name in given if name in ("method", *ONE_WAY)), *own]
    if one_way and "effort" in given:
        raise UsageError(f"--effort {given['effort']} finds out how to merge: leave out {flag(one_way[0])}")
    if one_way:
        written = replace(written, effort=None)
    if "effort" in given:
        written = replace(written, **{name: getattr(_DEFAULT, name) for name in ("method", *ONE_WAY, "own")})
    options = replace(written, **given)
    kept = {**dict(written.by(options.method, options.refine).own), **own}
    if written.task_vectors is not None and options.method != written.method:
        kept = dict(own)  # options of one name mean something else there
    options = replace(options, own=tuple(kept.items()))
    require_use(options.settled(), given)
    if options.method == DEFAULT and options.effort is None and one_way:
        options = replace(options, method=UNNAMED)  # though it may be given as what it is by default
    before = set(idle(written.settled(), differing(written)))
    stale = [name for name in idle(options.settled(), differing(options)) if name not in before]
    return replace(options, **{name: getattr(_DEFAULT, name) for name in stale})


_DEFAULT = MergeOptions()


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
    written = recipe.calibration or Calibration()
    if given.get("calib") is not None:  # other images, of which a recipe says nothing
        written = Calibration(given["calib"], written.of)
    if given.get("calib_of"):
        of = of_models(recipe.models, given["calib_of"], "--calib-of")
        kept = {} if written.data is None else written.image_options
        written = Calibration(written.data, of, **kept)
    if written.data is None and not written.of:
        if images:
            raise UsageError(f"--{next(iter(images)).replace('_', '-')} is for calibration images: give them (--calib)")
        return None
    return replace(written, **images)


def output_of(recipe: Recipe) -> Path:
    """Where to write. Raises UsageError where that is not said."""
    if recipe.output is None:
        raise UsageError("where is the merged model to go? give -o OUTPUT, or `output:` in the recipe")
    return Path(recipe.output)


def note_files(context: click.Context, recipe: Recipe) -> None:
    """Note the files that a recipe names, as the options of the command line do for theirs."""
    files = files_of(context)
    for model in recipe.models:
        files.reads("one of the models", model, model=True)
    data = None if recipe.calibration is None else recipe.calibration.data
    of = {} if recipe.calibration is None else recipe.calibration.of
    tasks = recipe.tasks if isinstance(recipe.tasks, str) else None
    operators = None if recipe.options.operators is None else str(recipe.options.operators)
    for what, path in (
        ("the calibration data", data),
        *(("one of the token lists", path) for path in recipe.vocab),
        *((f"the data of {model}", own) for model, own in of.items()),
        ("the labels", recipe.labels),
        ("the task file", tasks),
        ("the class vectors", recipe.vectors),
        ("the operators file", operators),
    ):
        if path is not None:
            files.reads(what, path)
    for value in recipe.inputs.values():
        if value.endswith(".npy"):
            files.reads("the value of an input", value)
    if recipe.base is not None:
        files.reads("the base", recipe.base, model=True)
    written = context.get_parameter_source("output") == ParameterSource.COMMANDLINE
    if recipe.output is not None and not written:
        files.writes("output:", recipe.output, model=True)
    if recipe.output is not None and not context.params["dry_run"]:
        for beside in token_files(recipe.vocab, Path(recipe.output)):
            files.writes(f"the token list beside {'-o' if written else 'output:'}", str(beside))


def size_factor(options: MergeOptions) -> float:
    """How large the merged model is at least, in sizes of a parent."""
    narrower = min([1.0, *(width for _, width in options.given_widths)]) ** 2
    return narrower * (0.5 if options.output_type == "float16" else 1.0)
