"""What a repository of models is held to, in onnxmerge.toml or pyproject.toml: gates by the names of models.

    [[check]]                       # in pyproject.toml: [[tool.onnxmerge.check]]
    models = ["models/*.onnx"]
    min_runtime = "1.17"
    certify = true

Paths are relative to the file, and lead nowhere outside its folder, all links followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnxmerge.calibration.readers import is_script
from onnxmerge.checking.settings import FILES
from onnxmerge.documents import first_fault
from onnxmerge.errors import InputError, UsageError
from onnxmerge.files import named, read_text, require_file
from onnxmerge.text import reason, shown

_PATHS = ("data", "labels", "tasks", "vectors", "schema", "baseline", "operators")
MODEL, PARENT = "the model itself", "one of the parents"
_Ratio = Annotated[float, Field(ge=0)] | None


class _Entry(BaseModel):
    """The arguments of ``onnxmerge.check``, and the models that they are for."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    models: Annotated[list[str], Field(min_length=1)]
    against: list[str] = []
    data: str | None = None
    labels: str | None = None
    tasks: str | None = None
    vectors: str | None = None
    operators: str | None = None
    schema_file: Annotated[str | None, Field(alias="schema")] = None
    baseline: str | None = None
    min_runtime: str | None = None
    targets: list[str] = []
    certify: bool = False
    reproduce: bool = False
    max_drop: _Ratio = None
    max_ensemble_drop: _Ratio = None
    min_agreement: _Ratio = None
    max_error: _Ratio = None
    max_size_ratio: _Ratio = None
    max_parameters_ratio: _Ratio = None
    max_latency_ratio: _Ratio = None
    only: list[str] = []
    skip: list[str] = []
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 64


class _File(BaseModel):
    """What onnxmerge.toml holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    check: list[_Entry]


def json_schema() -> dict[str, Any]:
    """The JSON schema of onnxmerge.toml, for editors: specs/check/config.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_File.model_json_schema()}


@dataclass(frozen=True, slots=True)
class Planned:
    """A model, and the arguments of ``check`` for it.

    It is None where there is nothing to check for ``pattern``, and ``why`` says so.
    """

    pattern: str
    model: Path | None
    arguments: Mapping[str, Any]
    why: str = "no model matches this pattern"

    @property
    def files(self) -> Iterator[tuple[str, str]]:
        """What is read: what messages call it, and the path."""
        if self.model is not None:
            yield MODEL, str(self.model)
        for parent in self.arguments["against"]:
            yield PARENT, parent
        for name in _PATHS:
            if name in self.arguments:
                yield f"the {name}", str(self.arguments[name])


def find_config(folder: Path) -> Path | None:
    """The file in a folder that says what to check; None where there is none."""
    for name in FILES:
        path = folder / name
        if path.is_file() and (name == FILES[0] or _entries(path) is not None):
            return path
    return None


def planned(path: Path) -> Iterator[Planned]:
    """The models that a file names, each once for each entry. Raises InputError, naming the entry and the key."""
    entries = _entries(path)
    if not entries:
        table = "[[tool.onnxmerge.check]]" if path.name == FILES[1] else "[[check]]"
        raise InputError(f"{named(path)}: has no {table}; see docs/checking.md")
    for number, raw in enumerate(entries, start=1):
        where = f"{named(path)}: check {number}"
        try:
            entry = _Entry.model_validate(raw)
        except ValidationError as error:
            raise InputError(f"{where}: {first_fault(error, 'it')}; see docs/checking.md") from error
        given = entry.model_dump(exclude_unset=True, by_alias=True)
        patterns = given.pop("models")
        arguments = {
            name: _inside(value, path.parent, where) if name in _PATHS else value for name, value in given.items()
        }
        arguments["against"] = [_inside(each, path.parent, where) for each in given.get("against", ())]
        if "operators" in arguments:
            arguments["operators"] = Path(arguments["operators"])
        for pattern in patterns:
            _inside(pattern, path.parent, where)
            found = _matching(pattern, path.parent, where)
            for model in found:
                yield Planned(pattern, model, arguments)
            if not found:
                yield Planned(pattern, None, arguments)


def of_these(plan: Iterable[Planned], models: Sequence[str]) -> Iterator[Planned]:
    """What is planned for models that are named, in their order. Raises InputError for one that is not there."""
    known: dict[Path, list[Planned]] = {}
    for each in plan:
        if each.model is not None:
            known.setdefault(each.model.resolve(), []).append(each)
    asked: dict[Path, str] = {}
    for model in models:
        asked.setdefault(Path(model).resolve(), model)
    for place, model in asked.items():
        require_file(model, "an ONNX model")
        nobody = Planned(model, None, {"against": ()}, "no pattern of the configuration matches it")
        yield from known.get(place, (nobody,))


def _matching(pattern: str, folder: Path, where: str) -> list[Path]:
    try:
        found = sorted(each for each in folder.glob(pattern) if each.is_file())
    except (ValueError, IndexError) as error:  # which of them says that it is no pattern goes by the Python
        told = "is no pattern of files; ** stands alone between slashes, as in models/**/*.onnx"
        raise InputError(f"{where}: models: {shown(pattern)} {told}") from error
    for each in found:
        _require_inside(each, folder, where)
    return found


def _entries(path: Path) -> list[Any] | None:
    reader = next((name for name in ("tomllib", "tomli") if find_spec(name) is not None), None)
    if reader is None:  # before Python 3.11
        raise UsageError(f"{named(path)}: this Python reads no TOML; install tomli, or name the model")
    text = read_text(path, "a configuration", 1 << 20)
    try:
        content = import_module(reader).loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{named(path)}: is not TOML: {reason(error)}") from error
    if path.name == "pyproject.toml":
        tool = content.get("tool", {})
        content = tool.get("onnxmerge", {}) if isinstance(tool, dict) else {}
    content = content if isinstance(content, dict) else {}
    unknown = next((key for key in content if key != "check"), None)
    if unknown is not None:  # a misspelt table would be a model that nobody checks
        raise InputError(f"{named(path)}: has {shown(unknown)}, expected tables [[check]] and nothing else")
    found = content.get("check")
    if found is not None and not isinstance(found, list):
        raise InputError(f"{named(path)}: check is {shown(found)}, expected tables [[check]]")
    return found


def _inside(text: str, folder: Path, where: str) -> str:
    """A path as the folder has it. Raises InputError for one that leads out of it, all links followed."""
    if not text or Path(text).is_absolute() or ".." in Path(text).parts or "\0" in text:
        raise InputError(f"{where}: {shown(text)} leads out of the folder of the file; name what lies below it")
    _require_inside(Path(folder, text.rpartition(":")[0] if is_script(text) else text), folder, where)
    return str(folder / text)


def _require_inside(path: Path, folder: Path, where: str) -> None:
    """Raise InputError where a path, or a link in the folder that it is, leads out of the folder of the file."""
    home, seen, waiting = Path(os.path.realpath(folder)), set[Path](), [path]
    while waiting:
        named_so = waiting.pop()
        real = Path(os.path.realpath(named_so))
        if not real.is_relative_to(home):
            told = f"leads by a link to {shown(str(real))}, out of the folder of the file; copy that into it"
            raise InputError(f"{where}: {shown(str(named_so))} {told}")
        if real in seen:  # links may go round in circles
            continue
        seen.add(real)
        for above, folders, files in os.walk(real):
            waiting += [below for name in (*folders, *files) if (below := Path(above, name)).is_symlink()]
