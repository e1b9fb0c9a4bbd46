"""``--work-dir``: results of stages that take long, kept in a folder, so that a run that was killed can go on.

A result is found by a digest of all that determines it: the recipe of the merge (options, and digests of models, data
and labels), the stage and what of the data it takes, the versions and the code of all that computes it, and the
processor. So what is found is what would be computed, and a change of anything else leaves results unused, not wrong. A
file appears by a rename when it is complete, so there may be several runs in one folder, and each may be killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from onnxmerge.errors import InputError, UsageError
from onnxmerge.executor import cores_of_process
from onnxmerge.memory import readable
from onnxmerge.model.publication import PREFIX, naming
from onnxmerge.model.runtimes.onnx_runtime import VERSION
from onnxmerge.model.scratch import scratch_folder
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.provenance import plain
from onnxmerge.pipeline.result_file import read_result, size_of, write_result

T = TypeVar("T")

MARK = "onnxmerge-work.txt"
_TEXT = "Results of stages that `onnxmerge run --work-dir` keeps. The folder may be deleted when no run needs it.\n"

MOST = 16 << 30
"""Bytes of results in a folder beyond which those go that no run has used for longest."""

LASTING = ("statistics-", "matching-")
"""Results that stay when one that was made of them is kept: other ways to merge want them too."""

SPARE = 1 << 28
"""Bytes of disk space that are left free."""

_ROUNDING = re.compile(
    r"\w+_NUM_THREADS|VECLIB_MAXIMUM_THREADS|OPENBLAS_CORETYPE|MKL_CBWR|NPY_(?:DIS|EN)ABLE_CPU_FEATURES"
)
"""Variables of the environment that decide in what order numbers are added up, or by what code."""


class Store:
    """Where stages find the results that are kept; here none is."""

    def kept(self, _stage: str, _options: MergeOptions, _what: object, compute: Callable[[], T]) -> T:
        """The result of ``compute``, or what an earlier run kept of it.

        Args:
            _stage: The name of the stage.
            _options: How to merge; those that do not matter to the result set to one value.
            _what: What else the result depends on, of plain values and dataclasses of them.
            compute: Gives a result that ``result_file`` can write.

        """
        return compute()

    def kept_each(
        self, _stage: str, every: Sequence[tuple[MergeOptions, object]], compute: Callable[[Sequence[int]], Iterator[T]]
    ) -> Iterator[T]:
        """The same for several results, by the options and what else each depends on, in their order.

        Args:
            _stage: The name of the stage.
            every: For each result how to merge, and what else it depends on.
            compute: Gives the results at some places, in order. Of an error that is given for a result none is kept.

        """
        yield from compute(range(len(every)))

    def notes(self) -> tuple[str, ...]:
        """What the user should know of what is kept."""
        return ()


NO_STORE = Store()


@dataclass(slots=True, eq=False)
class WorkFolder(Store):
    """Results in a folder. ``recipe`` says of options all that a merge by them is made from (``canonical_recipe``)."""

    folder: Path
    recipe: Callable[[MergeOptions], str]
    found: int = 0
    refused: int = 0
    _used: set[str] = field(default_factory=set)

    def kept(self, stage: str, options: MergeOptions, what: object, compute: Callable[[], T]) -> T:
        """The result of ``compute``, or what an earlier run kept of it."""
        path = self._path(stage, options, what)
        found = self._found(path)
        if found is not None:
            result: T = found[0]
            return result
        return self._computed(path, compute)

    def kept_each(
        self, stage: str, every: Sequence[tuple[MergeOptions, object]], compute: Callable[[Sequence[int]], Iterator[T]]
    ) -> Iterator[T]:
        """The same for several results, by the options and what else each depends on, in their order."""
        paths = [self._path(stage, *each) for each in every]
        known = [self._found(path) for path in paths]
        computed = compute([place for place, found in enumerate(known) if found is None])
        for path, found in zip(paths, known, strict=True):
            yield self._computed(path, partial(next, computed)) if found is None else found[0]

    def _path(self, stage: str, options: MergeOptions, what: object) -> Path:
        """The file of a result."""
        return self.folder / f"{stage}-{_digest([environment(), self.recipe(options), stage, plain(what)])[:32]}.result"

    def _computed(self, path: Path, compute: Callable[[], T]) -> T:
        """A result that is not kept yet: now it is, unless it is an error."""
        before = frozenset(self._used)
        self._used.add(path.name)
        result = compute()
        if not isinstance(result, Exception) and self._keep(path, result):
            self._forget(self._used - before - {path.name})
        return result

    def _found(self, path: Path) -> tuple[Any] | None:
        """A result that is kept; None where there is none, or it is not as it was written."""
        try:
            if not path.is_file():  # a pipe would not end
                return None
            result = read_result(path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        with suppress(OSError):  # a file of another user's
            os.utime(path)
        self._used.add(path.name)
        self.found += 1
        return (result,)

    def notes(self) -> tuple[str, ...]:
        """What is kept, for people."""
        results = self._results()
        told = f"{self.folder} keeps {len(results)} results, {readable(sum(size for _, size, _ in results))}"
        told += f"; used again: {self.found}"
        return (f"{told}; no room for: {self.refused}" if self.refused else told,)

    def _keep(self, path: Path, result: Any) -> bool:
        """Keep a result where there is room, and say whether; a run that cannot keep one goes on."""

        def write(file: Path) -> None:
            with file.open("wb") as stream:
                write_result(result, stream)

        try:
            size = size_of(result)
            if self._make_room(MOST - size) and shutil.disk_usage(self.folder).free > size + SPARE:
                self.write(path, write)
                return True
        except (OSError, InputError):
            pass
        self.refused += 1
        return False

    def _forget(self, names: Iterable[str]) -> None:
        """Remove what was kept on the way to a result that is kept now, but for what others may want too."""
        for name in names:
            if not name.startswith(LASTING):
                with suppress(OSError):
                    (self.folder / name).unlink()
                self._used.discard(name)

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Have a file appear that ``write`` fills. Raises InputError where that cannot be."""
        with naming(path), scratch_folder(self.folder, PREFIX) as scratch:
            write(scratch / "new")
            with (scratch / "new").open("rb+") as stream:
                os.fsync(stream.fileno())
            (scratch / "new").replace(path)

    def _make_room(self, most: int) -> bool:
        """Remove what was not used for longest, as long as all results take more than ``most`` bytes; True if it helps.

        Those of this run stay.
        """
        results = self._results()
        held = sum(size for _, size, _ in results)
        unused = [(size, path) for _, size, path in results if path.name not in self._used]
        if held - sum(size for size, _ in unused) > most:
            return False
        for size, path in unused:
            if held > most:
                path.unlink(missing_ok=True)
                held -= size
        return True

    def _results(self) -> list[tuple[float, int, Path]]:
        """The results in the folder, with the time of their last use and their bytes, in this order."""
        found = []
        for path in self.folder.glob("*.result"):
            with suppress(OSError):  # another run has removed it
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        return sorted(found)


def begin(folder: Path, options: MergeOptions, recipe: Callable[[MergeOptions], str], *, resume: bool) -> WorkFolder:
    """The store in a work folder, in which the job is noted.

    Raises UsageError where the job is to ``resume``, and the folder was kept for others only.
    """
    store, job = WorkFolder(folder, recipe), {**json.loads(recipe(options)), **environment()}
    path = folder / f"job-{_digest(job)[:32]}.json"
    if path.exists():
        return store
    others = sorted(filter(Path.is_file, folder.glob("job-*.json")), key=lambda other: other.stat().st_mtime)
    if resume and others:
        raise UsageError(
            f"--resume: {folder} was kept for another merge ({_differing(others[-1], job)}); repeat the command of "
            "that one, or leave --resume out to begin this one in the same folder"
        )
    try:
        store.write(path, lambda file: file.write_text(json.dumps(job, indent=1) + "\n", encoding="utf-8"))
    except InputError:  # as with any result: the run goes on
        store.refused += 1
    return store


def begun(folder: Path) -> bool:
    """Whether a job in the folder has come to its first stage."""
    return next(folder.glob("job-*.json"), None) is not None


def work_folder(folder: Path) -> Path:
    """The folder, made if it is not there. Raises InputError where it is something else, or holds anything else."""
    with naming(folder):
        if not folder.parent.is_dir():
            raise InputError(f"{folder}: its folder does not exist; create {folder.parent} first")
        if folder.is_symlink() and not folder.exists():
            raise InputError(f"{folder}: is a link that leads nowhere; name a folder")
        folder.mkdir(exist_ok=True)
        if not (folder / MARK).exists():
            other = next(folder.iterdir(), None)
            if other is not None and other.name != MARK:
                raise InputError(f"{folder}: is no work folder, for it holds {other.name}; name a new or an empty one")
            with suppress(FileExistsError), (folder / MARK).open("x", encoding="utf-8") as file:  # never over a link
                file.write(_TEXT)
    return folder


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def environment() -> Mapping[str, object]:
    """What else decides how numbers are rounded: versions, code, processor and threads of this process."""
    package, code = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".yaml"):
            code.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return {
        "versions": {name: version(name) for name in ("numpy", "scipy", "onnx", "onnx-ir", "ml_dtypes")}
        | {"onnxruntime": VERSION, "python": platform.python_version(), "code": code.hexdigest()},
        "machine": [platform.system(), platform.machine(), _processor()],
        "threads": [cores_of_process(), *sorted(each for each in os.environ.items() if _ROUNDING.fullmatch(each[0]))],
    }


def _processor() -> str:
    """The model of the processor: libraries choose their code by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _differing(other: Path, job: Mapping[str, Any]) -> str:
    """Which entries of another job's recipe are not those of ``job``."""
    try:
        kept = json.loads(other.read_text(encoding="utf-8"))
        names = sorted(name for name in {*kept, *job} if kept.get(name) != json.loads(json.dumps(job.get(name))))
    except (OSError, ValueError, AttributeError):
        names = []
    return f"other {', '.join(names[:8])}" if names else "what its record says cannot be read"
