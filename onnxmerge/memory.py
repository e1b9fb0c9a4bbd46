"""How much memory a run may take: what is asked for beforehand, where it can be told, and what the system enforces.

Files of a few bytes can ask for any amount of memory. Whoever knows how much something takes at the least calls
``require_room`` before taking it. For all else there is ``memory_limit``, under which an allocation too many fails,
instead of having the system slow down and kill whom it pleases. By default the limit is half of what is free.

What is kept only to save time has ``room_for`` it. Sizes that decide how sums are rounded (where batches are cut, which
products are kept) are constants, whatever is free: the same input gives the same bytes under any limit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmerge.errors import ResourceError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

if sys.platform != "win32":
    import resource

SHARE = 0.5
"""Of the free memory, by default."""

LARGE = 1 << 23
"""Bytes from which on ``mapped_zeros`` maps a file."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_UNLIMITED = 1 << 60
"""What counts as no limit: control groups of version 1 write one down as almost 2**63."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """``size`` bytes may be taken beside the ``before`` that the process already had; ``chosen`` by somebody or not."""

    size: int
    before: int
    chosen: bool


_limit: ContextVar[_Limit | None] = ContextVar("memory_limit", default=None)
_turn = threading.RLock()
"""The system has one limit for all threads: what sets one for a moment must not take another's for what was before."""


def parse_size(text: str | int) -> int:
    """Bytes from "512MB", "4GB", "1.5 GiB" or a number. Raises UsageError for anything else, and for nothing at all."""
    found = _SIZE.fullmatch(str(text).strip())
    if found is not None:
        number, unit, binary = found[1], found[2].upper(), found[3]
        if unit or not binary:
            size = int(float(number) * (_BINARY if binary else _UNITS)[unit])
            if 0 < size < _UNLIMITED:
                return size
    raise UsageError(f"{str(text)[:80]!r} is no amount of memory; give one such as 512MB or 4GB")


def readable(size: int) -> str:
    """An amount of memory for people, by three figures: "4.29 GB"."""
    unit = max((name for name in _UNITS if size >= _UNITS[name]), key=_UNITS.__getitem__, default="")
    return f"{size / _UNITS[unit]:.3g} {unit}B" if size < 10**15 else f"{size:.0e} bytes".replace("e+", "e")


def memory_budget() -> int:
    """Bytes that may still be taken."""
    limit = _limit.get()
    if limit is None:
        return int(SHARE * free_memory())
    return max(0, limit.size - max(0, _taken() - limit.before))


def room_for(most: int, part: int) -> int:
    """Bytes for what is kept to save time and changes no result: ``most``, or a ``part``-th of what may be taken."""
    return min(most, memory_budget() // part)


def mapped_zeros(shape: Sequence[int]) -> NDArray[np.float64]:
    """An array of zeros that is kept for long. A large one is a temporary file, mapped, which the system may write out.

    So what is measured between all units does not add up in memory. The file has no name and is gone with the array;
    where there is no room for it, or it cannot be had beforehand, the array is one in memory.
    """
    import numpy as np  # help lists the commands without it

    size = math.prod(shape) * np.dtype(np.float64).itemsize
    # Without posix_fallocate a full disk would be told by a signal, later.
    if size >= LARGE and hasattr(os, "posix_fallocate") and not lies_in_memory(tempfile.gettempdir()):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(prefix="onnxmerge-") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
            return np.frombuffer(mmap.mmap(stream.fileno(), size), np.float64).reshape(shape)
    return np.zeros(shape)


@functools.cache
def lies_in_memory(folder: str, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether files of a folder are in memory themselves (Linux), where no limit would hold for them."""
    kinds: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            place, kind = line.split(" - ", 1)
            kinds[place.split()[4]] = kind.split()[0]
    path = Path(folder).resolve()
    return next((kinds[str(each)] for each in (path, *path.parents) if str(each) in kinds), "") in {"tmpfs", "ramfs"}


def require_room(size: int, what: str) -> None:
    """Raise ResourceError if ``size`` bytes are more than may be taken.

    Args:
        size: What is truly needed at the least, so that nothing is refused that the machine could hold.
        what: What takes them, as a subject: "model.onnx: input 'x' of shape [1, 3, 100000, 100000]".

    """
    budget = memory_budget()
    if size > budget:
        raise ResourceError(
            f"{what} takes {readable(size)} of memory, and {readable(budget)} may be taken; "
            "use smaller sizes, or allow more with --max-memory"
        )


@contextlib.contextmanager
def memory_limit(size: int | str | None) -> Iterator[None]:
    """Let at most so much memory be taken inside of the block, beside what the process already has.

    On Linux the system refuses more (to all threads of the process), elsewhere only ``require_room`` does. Of blocks
    inside each other the innermost counts. None changes nothing.

    Raises UsageError if ``size`` is no amount of memory.
    """
    if size is None:
        yield
        return
    with _limited(_Limit(parse_size(size), _taken(), chosen=True)):
        yield


@contextlib.contextmanager
def default_limit() -> Iterator[None]:
    """Let at most what `memory_budget` says be taken inside of the block, as nobody has said how much it may be."""
    with _limited(_Limit(memory_budget(), _taken(), chosen=False)):
        yield


@contextlib.contextmanager
def _limited(limit: _Limit) -> Iterator[None]:
    token = _limit.set(limit)
    try:
        with _enforced(limit.before + limit.size):
            yield
    finally:
        _limit.reset(token)


@contextlib.contextmanager
def unless_limited(size: int) -> Iterator[None]:
    """Let at most so much be taken inside of the block, unless somebody has chosen a limit; one thread at a time."""
    limit = _limit.get()
    if limit is not None and limit.chosen:
        yield
        return
    with _turn, _limited(_Limit(min(size, memory_budget()), _taken(), chosen=False)):
        yield


@contextlib.contextmanager
def _enforced(size: int) -> Iterator[None]:
    """Have allocations fail beyond ``size`` bytes of private data; files that are mapped do not count."""
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _taken() -> int:
    """Bytes of private data of this process, as the system's limit counts them; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, of the machine or of the container that the process is in."""
    return min([_free_in_machine(), *_free_in_groups()])


def _free_in_machine() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _free_on_windows()
    # Not what is free, which macOS does not tell so simply, but what there is.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_on_windows() -> int:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "paged", "virtual", "mapped", "rest")),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel: object = getattr(ctypes, "windll").kernel32  # noqa: B009 - it is there on Windows alone
    filled = getattr(kernel, "GlobalMemoryStatusEx")(ctypes.byref(status))  # noqa: B009 - the same
    return int(status.free) if filled else _UNLIMITED


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _free_in_groups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What is left of the limit of each control group that the process is in (Linux; versions 1 and 2)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for line in proc.read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base, names = (root / "memory", _V1) if controllers else (root, _V2)
            inner = base / path.strip("/")
            folders = [inner, *inner.parents]
            # In a container the path may be that of the host, which is not to be seen from inside: the root counts.
            found += [
                left for folder in folders[: folders.index(base) + 1] if (left := _left(folder, *names)) is not None
            ]
    return found


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """What a control group may still take; what it holds of files counts, as the system drops that first."""
    try:
        allowed = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        dropped = [
            line.split()[1]
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            if line.split()[0] == cache
        ]
    except (OSError, ValueError):  # not there, or "max"
        return None
    return max(0, allowed - used + sum(map(int, dropped))) if allowed < _UNLIMITED else None
