"""What is read and what is written: an output is never an input, by whatever name.

Two names are one file where the system says so: links of both kinds, `sub/../a.onnx`, and file systems that do not tell
case apart. Of a model its external data is read too, of a folder of data all the data in it, of a script its file; a
large model is written with a data file beside it. All this is looked at before the work, since it may take hours.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from onnxmerge.calibration.chunks import ARRAY_SUFFIXES
from onnxmerge.calibration.images import IMAGE_SUFFIXES
from onnxmerge.calibration.readers import is_script
from onnxmerge.errors import InputError, OnnxmergeError, UsageError
from onnxmerge.model.network import Network
from onnxmerge.model.publication import PREFIX, Publication, naming, require_writable
from onnxmerge.model.read import data_files
from onnxmerge.model.scratch import scratch_folder
from onnxmerge.model.write import EMBEDDED, data_file, save_network
from onnxmerge.types import Array


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that is read; ``what`` is what messages call it, such as "one of the models"."""

    what: str
    path: Path
    model: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """A file that is written; ``name`` is what messages call it, such as "-o m.onnx"."""

    name: str
    path: Path
    model: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, and that beside it which a large model keeps its weights in."""
        return (self.path, data_file(self.path)) if self.model else (self.path,)


def sources(what: str, *given: object, model: bool = False) -> tuple[Source, ...]:
    """What is read for arguments as the API takes them: paths or `script.py:function`; nothing for what is in memory.

    Raises InputError for a path that cannot be one.
    """
    found = []
    for each in given:
        if isinstance(each, str | os.PathLike):
            text = os.fsdecode(each)
            if not text or "\0" in text:
                raise InputError(f"{what}: {text!r} is no path; give the name of a file")
            found.append(Source(what, Path(text.rpartition(":")[0] if is_script(text) else text), model))
    return tuple(found)


def require_apart(outputs: Sequence[Output], read: Iterable[Source]) -> None:
    """Raise UsageError where an output is something that is read, or another output."""
    for one, other in combinations(outputs, 2):
        if any(_same(a, b) or _will_be_same(a, b) for a in one.paths for b in other.paths):
            raise UsageError(f"{one.name} and {other.name} are one file; choose another name for one of them")
    known = list(read)
    for output in outputs:
        for source in known:
            for path in output.paths:
                if _same(path, source.path):
                    raise UsageError(f"{output.name} {_is(path, output)} {source.what}; choose another name")
    replaced = {_identity(path): (output, path) for output in outputs for path in output.paths}
    replaced.pop(None, None)
    for source in known if replaced else ():
        for what, file in _within(source):
            if (found := replaced.get(_identity(file))) is not None:
                output, path = found
                raise UsageError(f"{output.name} {_is(path, output)} {what} {source.path}; choose another name")


def _is(path: Path, output: Output) -> str:
    return "is" if path == output.path else f"has its data in {path.name}, which is"


def save_apart(
    network: Network,
    weights: Mapping[str, Array],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    read: Iterable[Source],
    together: Publication | None,
    *,
    texts: Mapping[Path, str] | None = None,
) -> Path:
    """Write a network with other weights, whole or not at all, onto nothing that was ``read``; the path.

    ``texts`` are files that appear with it. With ``together`` all appear when that is published. Raises InputError
    where it cannot be written, UsageError where ``path`` is one of the files that were read.
    """
    target = Path(path).absolute()
    beside = texts or {}
    require_apart([Output(str(path), target, model=True), *(Output(str(file), file) for file in beside)], read)
    with Publication() as own:
        files = own if together is None else together
        for file, text in beside.items():
            files.write_text(file, text)
        save_network(network.model, weights, target, metadata, files)
        own.publish()
    return target


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one is not there (yet)
        return os.path.realpath(one) == os.path.realpath(other)


def _will_be_same(one: Path, other: Path) -> bool:
    """Whether two names that differ in case alone may be one file: not worth to find out which file system this is."""
    return os.path.realpath(one).casefold() == os.path.realpath(other).casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _within(source: Source) -> Iterator[tuple[str, Path]]:
    """The files that are read beside the one that is named."""
    if source.path.is_dir():
        for folder, _, names in os.walk(source.path):
            for name in names:
                if Path(name).suffix.lower() in ARRAY_SUFFIXES | IMAGE_SUFFIXES:
                    yield f"in {source.what},", Path(folder, name)
    elif source.model and source.path.is_file():
        for file in _data_files(source.path):
            yield f"the data file of {source.what},", file


def _data_files(model: Path) -> set[Path]:
    try:
        return data_files(model)
    except OnnxmergeError:  # which whoever reads the model will say
        return set()


def require_room(outputs: Sequence[Output], like: Path | None = None, factor: float = 1.0) -> None:
    """Raise InputError unless every output can be written; models are ``factor`` times as large as ``like``."""
    for output in outputs:
        require_writable(output.path)
    for parent in {output.path.parent: output for output in outputs}.values():
        with naming(parent.path), scratch_folder(parent.path.parent, PREFIX):
            pass  # so there can be one when it is needed
    size = 0 if like is None or not like.is_file() else _size(like) * factor
    for output in outputs if size else ():
        if output.model:
            _require_space(output, round(size))


def _require_space(output: Output, size: int) -> None:
    if size > EMBEDDED:
        require_writable(data_file(output.path))
    folder = output.path.parent
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < size:
        raise InputError(
            f"{output.path}: no space left in {folder} ({usage.free} bytes free, about {size} needed); "
            "free some or choose another place"
        )


def _size(model: Path) -> int:
    return sum(path.stat().st_size for path in {model, *_data_files(model)})
