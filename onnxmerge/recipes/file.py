"""Recipes as YAML files: validated by pydantic against the very fields of the options, and written back.

    models: [a.onnx, b.onnx]
    calibration: {data: calib.npz}
    method: mudsc-align
    alpha: 0.4
    groups:
      - {match: "layer3.*", pin: true}
    output: merged.onnx

Paths are relative to the recipe's folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from dataclasses import Field as DataclassField
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from onnxmerge.calibration.known_inputs import parse
from onnxmerge.contracts import AUTO
from onnxmerge.documents import read_yaml
from onnxmerge.errors import InputError, UsageError
from onnxmerge.files import named
from onnxmerge.pipeline.methods import METHODS, OWN_OPTIONS
from onnxmerge.pipeline.options import CHOICES, DEFAULT, MergeOptions, differing, merge_options, own_differing
from onnxmerge.recipes.recipe import Calibration, Recipe, of_models
from onnxmerge.text import reason, shown

_FILES = ("base", "labels", "vectors", "output")
"""Files beside the models and the calibration data."""
_PATHS = ("operators",)
"""Options that are paths."""


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read and validate a recipe. Raises InputError, naming the file, the key and what was expected."""
    source = Path(path)
    content = read_yaml(source, "a recipe")
    if not isinstance(content, dict):
        raise InputError(f"{named(source)}: expected a mapping with `models:`, found {type(content).__name__}")
    try:
        found = schema_model().model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InputError(f"{named(source)}: {_first(error)}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a value that pydantic itself fails at
        raise InputError(f"{named(source)}: {reason(error)}") from error
    try:
        return _recipe(found, source.parent)
    except UsageError as error:
        raise UsageError(f"{named(source)}: {error}") from error


def recipe_text(recipe: Recipe, folder: Path) -> str:
    """A recipe as `read_recipe` reads it from a file in ``folder``; only what differs from the defaults is written."""
    folder = folder.absolute()
    content: dict[str, Any] = {"models": [_relative(model, folder) for model in recipe.models]}
    if recipe.calibration is not None:
        data, of = recipe.calibration.data, recipe.calibration.of
        given: dict[str, Any] = {} if data is None else {"data": _relative(data, folder)}
        if of:
            given["of"] = {_relative(model, folder): _relative(own, folder) for model, own in of.items()}
        content["calibration"] = _plain({**given, **recipe.calibration.image_options})
    common, own = differing(recipe.options), own_differing(recipe.options)
    first = {name: common[name] for name in ("method",) if name in common}
    for name, value in {**first, **own, **common}.items():
        content[name] = _relative(str(value), folder) if name in _PATHS else _plain(value)
    if recipe.vocab:
        content["vocab"] = [_relative(path, folder) for path in recipe.vocab]
    if recipe.tasks is not None:
        content["tasks"] = _relative(recipe.tasks, folder) if isinstance(recipe.tasks, str) else list(recipe.tasks)
    if recipe.inputs:
        content["inputs"] = {name: _input_written(given, folder) for name, given in recipe.inputs.items()}
    content |= {name: _relative(path, folder) for name in _FILES if (path := getattr(recipe, name)) is not None}
    return yaml.safe_dump(content, sort_keys=False)


def json_schema() -> dict[str, Any]:
    """The JSON schema of recipes, as in specs/recipes/recipe.schema.json."""
    found = schema_model().model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


@cache
def schema_model() -> type[BaseModel]:
    """The pydantic model of a recipe file: models, calibration, output, and all options, methods' own among them."""
    own: dict[str, Any] = {
        "models": (
            Annotated[list[str], Field(min_length=2, description="Files to merge; the first is the template.")],
            ...,
        ),
        "vocab": (
            Annotated[tuple[str, ...], Field(description="The token list of each model, then that of the base.")],
            (),
        ),
        "calibration": (_mirror(Calibration) | None, None),
        "tasks": (str | tuple[str, ...] | None, None),
        "inputs": (dict[str, str | list[int]], {}),
        **dict.fromkeys(_FILES, (str | None, None)),
    }
    options = {name: found for name, found in _fields(MergeOptions).items() if name != "own"}
    words: Any = Literal
    options["method"] = Annotated[str, Field(json_schema_extra={"enum": [*METHODS, AUTO, DEFAULT]})], DEFAULT
    options |= {name: (words[CHOICES[name]], AUTO) for name in ("repair", "refine")}
    own |= {name: (_mirrored(each.hint) | None, None) for name, each in OWN_OPTIONS.items()}
    return create_model("Recipe", __config__=_STRICT, **own, **options)


_STRICT = ConfigDict(extra="forbid", frozen=True)


def _mirror(kind: type) -> Any:
    """A pydantic model with the fields of a dataclass, which refuses unknown keys."""
    return create_model(kind.__name__, __config__=_STRICT, **_fields(kind))


def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: (_mirrored(hints[each.name]), _default(each)) for each in fields(kind)}


def _default(each: DataclassField[Any]) -> Any:
    """A field's value by default, "..." where it has none."""
    if each.default_factory is not MISSING:
        return each.default_factory()
    return ... if each.default is MISSING else each.default


def _mirrored(hint: Any) -> Any:
    """A type with its dataclasses mirrored, one level of tuple deep."""
    if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        return GenericAlias(tuple, (_mirror(get_args(hint)[0]), ...))
    return hint


def _recipe(found: dict[str, Any], folder: Path) -> Recipe:
    hints = {**get_type_hints(MergeOptions), **{name: own.hint for name, own in OWN_OPTIONS.items()}}
    calibration = found.pop("calibration", None)
    written = found.pop("models")
    models = tuple(_resolved(model, folder) for model in written)
    files = {name: found.pop(name, None) for name in _FILES}
    tasks = found.pop("tasks", None)
    vocab = tuple(_resolved(path, folder) for path in found.pop("vocab", ()))
    inputs = {name: _input_read(name, given, folder) for name, given in found.pop("inputs", {}).items()}
    options = {name: restored(hints[name], value) for name, value in found.items()}
    for name in _PATHS:
        if options.get(name) is not None:
            options[name] = Path(_resolved(str(options[name]), folder))
    data = None if calibration is None else _calibration(calibration, written, folder)
    return Recipe(
        models,
        vocab=vocab,
        calibration=data,
        inputs=inputs,
        options=merge_options(options),
        tasks=_resolved(tasks, folder) if isinstance(tasks, str) else tasks,
        **{name: None if path is None else _resolved(path, folder) for name, path in files.items()},
    )


def _calibration(found: dict[str, Any], models: Sequence[str], folder: Path) -> Calibration:
    """What a recipe says of data. Raises InputError where it names none, UsageError for models it does not have."""
    data, of = found.pop("data", None), found.pop("of", {})
    if data is None and not of:
        raise InputError("key 'calibration.data' is missing")
    own = of_models(models, [*of.items()], "calibration.of")
    return Calibration(
        None if data is None else _resolved(data, folder),
        {_resolved(model, folder): _resolved(each, folder) for model, each in own.items()},
        **found,
    )


def _input_read(name: str, given: str | list[int], folder: Path) -> str:
    """A shape or a file as the command line takes it."""
    text = (",".join(map(str, given)) or "scalar") if isinstance(given, list) else given
    try:
        _, text = parse(f"{name}:{text}")
    except UsageError as error:
        raise InputError(f"inputs: {error}") from error
    return _resolved(text, folder) if text.endswith(".npy") else text


def _input_written(given: str, folder: Path) -> str | list[int]:
    if given.endswith(".npy"):
        return _relative(given, folder)
    return [] if given == "scalar" else [int(size) for size in given.split(",")]


def restored(hint: Any, value: Any) -> Any:
    """A value of a type, whose plain mappings become the dataclasses that they mirror."""
    if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        kind: Any = get_args(hint)[0]
        return tuple(kind(**each) for each in value)
    return value


def _resolved(path: str, folder: Path) -> str:
    return os.path.normpath(folder / path)


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return str(Path(path).absolute())


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(each) for name, each in asdict(value).items() if each not in (None, False)}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    what = error.errors()[0]
    *above, last = what["loc"]
    keys = [str(part) for part in above if isinstance(part, int) or part in _keys()]
    if what["type"] == "extra_forbidden":
        return f"there is no key {shown('.'.join([*keys, str(last)]))}; see specs/recipes/recipe.schema.json"
    if what["type"] == "missing":
        return f"key {'.'.join([*keys, str(last)])!r} is missing"
    keys += [str(last)] if isinstance(last, int) or last in _keys() else []
    return f"{'.'.join(keys)}: {what['msg'].lower()}, found {shown(what['input'])}"


@cache
def _keys() -> frozenset[str]:
    """Every key that a recipe may have, at any depth: pydantic's places also name the branches of unions."""
    rules = [get_args(own.hint)[0] for own in OWN_OPTIONS.values() if get_origin(own.hint) is tuple]
    nested = (Recipe, MergeOptions, Calibration, *rules)
    return frozenset(each.name for kind in nested for each in fields(kind)) | frozenset(OWN_OPTIONS)
