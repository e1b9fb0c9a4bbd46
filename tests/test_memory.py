"""How much memory may be taken, and that more is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.errors import ResourceError, UsageError
from onnxmerge.memory import (
    LARGE,
    _free_in_groups,
    free_memory,
    lies_in_memory,
    mapped_zeros,
    memory_budget,
    memory_limit,
    parse_size,
    readable,
    require_room,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("4GB", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("2Ki", 2048),
        ("1000", 1000),
        (1000, 1000),
        ("7b", 7),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "lots", "4XB", "4iB", "nan", "1e9", "9" * 5000, "999999999999TB", -5])
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(UsageError, match="no amount of memory"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (4294967296, "4.29 GB"), (10**14, "100 TB"), (10**30, "1e30 bytes")],
)
def test_readable(size: int, text: str) -> None:
    assert readable(size) == text


def test_most_of_what_is_free_may_be_taken_by_default() -> None:
    assert 0 < memory_budget() <= free_memory()
    require_room(1, "a byte")
    with pytest.raises(ResourceError, match=r"^x takes .* may be taken; use smaller sizes, or .* --max-memory$"):
        require_room(free_memory() * 2, "x")


def test_a_limit_counts_what_was_taken_since() -> None:
    with memory_limit("1GB"):
        assert memory_budget() <= 10**9
        with pytest.raises(ResourceError, match="1 GB may be taken"):
            require_room(10**9 + 1, "x")
        if sys.platform == "linux":
            held = np.ones(4 * 10**8, np.uint8)
            assert memory_budget() < 10**9 - held.size
            with pytest.raises(MemoryError):
                np.ones(10**9, np.uint8)
        with memory_limit("2GB"):
            require_room(10**9 + 1, "x")
    with memory_limit(None):
        np.empty(2 * 10**9, np.uint8)


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_control_groups_of_either_version_count_with_all_above_them(tmp_path: Path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "root"
    stat = "anon 7\ninactive_file 30\n"
    _group(root / "a", memory__max="1000", memory__current="100", memory__stat=stat)
    _group(root / "a" / "b", memory__max="max", memory__current="50", memory__stat=stat)
    _group(root, memory__stat=stat)
    proc.write_text("0::/a/b\n")
    assert _free_in_groups(proc, root) == [930]
    first = root / "memory" / "c"
    _group(first, memory__limit_in_bytes="500", memory__usage_in_bytes="600", memory__stat="total_inactive_file 40\n")
    _group(root / "memory", memory__limit_in_bytes=f"{2**63 - 4096}", memory__usage_in_bytes="6", memory__stat="x 1")
    proc.write_text("3:cpu:/\n4:memory,hugetlb:/c\n")
    assert _free_in_groups(proc, root) == [0]
    proc.write_text("0::/host/path/unknown/here\n")
    assert _free_in_groups(proc, root) == []
    assert _free_in_groups(tmp_path / "absent", root) == []


def test_files_that_are_in_memory_themselves_are_told(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        f"2 1 0:5 / {tmp_path / 'ram'} rw shared:1 - tmpfs tmpfs rw\n"
        f"3 2 0:6 / {tmp_path / 'ram' / 'disk'} rw - ext4 /dev/b rw\n"
    )
    found = {name: lies_in_memory(str(tmp_path / name), mounts) for name in ("own", "ram", "ram/own", "ram/disk/own")}
    assert found == {"own": False, "ram": True, "ram/own": True, "ram/disk/own": False}


def test_a_mapped_array_is_one_of_zeros_that_can_be_written() -> None:
    for shape in ((3, 2), (1, LARGE // 8)):
        found = mapped_zeros(shape)
        assert found.shape == shape
        assert not found.any()
        found += 1
        assert found.all()
