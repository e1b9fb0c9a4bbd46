"""Weights that are computed once lie in a file, and come back bit for bit."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.model import kept_weights
from onnxmerge.model.kept_weights import KeptWeights
from onnxmerge.model.lazy_weights import LazyWeights

LARGE = 1 << 21
WEIGHTS: dict[str, NDArray[Any]] = {
    "w": np.random.default_rng(0).standard_normal((30, 7)),
    "turned": np.random.default_rng(1).standard_normal((30, 7)).astype(np.float32).T,
    "half": np.arange(5, dtype=np.float16),
    "brain": np.arange(6).astype(ml_dtypes.bfloat16),
    "one": np.array(3.5),
    "none": np.zeros((0, 4), np.float32),
    "nan": np.array([np.nan, -np.inf, -0.0]),
    "text": np.array(["a", "b"], dtype=object),
}


def counted(weights: Mapping[str, NDArray[Any]], calls: list[str]) -> LazyWeights:
    def compute(name: str) -> NDArray[Any]:
        calls.append(name)
        return weights[name].copy()

    return LazyWeights(weights, compute)


@pytest.mark.parametrize("disk", [True, False])
def test_each_is_computed_once(monkeypatch: pytest.MonkeyPatch, *, disk: bool) -> None:
    if not disk:
        monkeypatch.setattr(kept_weights, "lies_in_memory", lambda _: True)
    calls: list[str] = []
    kept = KeptWeights(counted(WEIGHTS, calls), sum(each.nbytes for each in WEIGHTS.values()))
    kept.compute(dict.fromkeys(WEIGHTS, LARGE), most=2 * LARGE)
    assert sorted(calls) == sorted(WEIGHTS)
    for name, expected in WEIGHTS.items():
        for _ in range(2):
            found = kept[name]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tolist() == expected.tolist() or found.tobytes() == expected.tobytes()
    # what has no bytes, and what is no number, is given again
    assert {name for name in calls if calls.count(name) > 1} == {"none", "text"}


def test_what_is_stored_already_is_not_kept() -> None:
    stored = np.arange(4.0)
    stored.flags.writeable = False
    kept = KeptWeights({"w": stored}, stored.nbytes)
    assert kept["w"] is stored
    assert kept["w"] is stored


def test_without_any_room_they_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_weights, "lies_in_memory", lambda _: True)
    monkeypatch.setattr(kept_weights, "room_for", lambda *_: 8)
    calls: list[str] = []
    kept = KeptWeights(counted({"w": np.arange(4.0), "b": np.array(1.0)}, calls), 40)
    for _ in range(2):
        assert kept["w"].tolist() == [0, 1, 2, 3]
        assert kept["b"] == 1
    assert calls == ["w", "b", "w"]


def test_a_disk_that_is_nearly_full_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    kept = KeptWeights({"w": np.arange(4.0)}, free // 2)
    assert kept._file is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_meanwhile_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("rb+", buffering=0) as full:
        monkeypatch.setattr(kept_weights, "_file", lambda _: full)
        kept = KeptWeights({"w": np.arange(4.0)}, 32)
        assert [kept["w"].tolist() for _ in range(2)] == [[0, 1, 2, 3]] * 2


FILLING = """
import gc, resource
import numpy as np
from onnxmerge.model.kept_weights import KeptWeights
from onnxmerge.model.lazy_weights import LazyWeights

for most in (100, 2800, 5000):  # in the middle of an array, at its end, and among several
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    kept = KeptWeights(LazyWeights(range(9), lambda at: np.full(700, at, np.float32)), 9 * 2800)
    assert all(kept[at].tolist() == [at] * 700 for at in [*range(9)] * 2)
    del kept
    gc.collect()
"""


def test_a_disk_that_fills_up_in_the_middle_of_an_array_leaves_no_trace() -> None:
    pytest.importorskip("resource")
    found = subprocess.run([sys.executable, "-c", FILLING], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_an_error_of_what_computes_comes_through() -> None:
    def fail(name: str) -> NDArray[Any]:
        raise InputError(f"initializer {name}: no")

    with pytest.raises(InputError, match="initializer w: no"):
        KeptWeights(LazyWeights(["w"], fail), 8).compute({"w": LARGE}, most=LARGE)


def test_another_process_gets_what_computes_them() -> None:
    kept = KeptWeights({"w": np.arange(4.0)}, 32)
    assert kept["w"].tolist() == [0, 1, 2, 3]
    assert pickle.loads(pickle.dumps(kept))["w"].tolist() == [0, 1, 2, 3]  # noqa: S301
    assert copy.copy(kept)["w"].tolist() == [0, 1, 2, 3]


def test_unknown_names_are_refused_and_files_are_gone() -> None:
    kept = KeptWeights({"w": np.arange(4.0)}, 32)
    with pytest.raises(KeyError):
        kept["v"]
    assert list(kept) == ["w"]
    held = kept["w"]
    held = kept["w"]
    file = kept._file
    del kept
    assert file is not None
    assert file.closed
    assert held.tolist() == [0, 1, 2, 3]
