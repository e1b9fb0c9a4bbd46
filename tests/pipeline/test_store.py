"""What is kept comes back bit for bit, is found by all that determines it, and changes no byte of what is merged."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.activations.moments import Moments
from onnxmerge.activations.statistics import Gram
from onnxmerge.api import MergeOptions, merge
from onnxmerge.errors import InputError, UsageError
from onnxmerge.pipeline import store
from onnxmerge.pipeline.result_file import read_result, write_result
from onnxmerge.pipeline.store import WorkFolder, begin, work_folder
from tests.attacks.pair import write_pair

SQUARE = np.arange(12.0).reshape(3, 4)


def kept_and_read(value: object, path: Path) -> Any:
    with path.open("wb") as stream:
        write_result(value, stream)
    return read_result(path)


@pytest.mark.parametrize(
    "array",
    [
        SQUARE,
        np.asfortranarray(SQUARE),
        SQUARE[::2, ::-1],
        SQUARE.reshape(3, 2, 2).transpose(1, 2, 0),
        np.broadcast_to(SQUARE[0], (3, 4)),
        np.array([np.nan, -0.0, np.inf, 5e-324]),
        np.array(3.0),
        np.zeros((0, 3), np.float32),
        np.array([True, False]),
        np.array([1, -1], ">i2"),
        np.array([1.5, 2.5], np.float16),
        np.array([1.5, 2.5], ml_dtypes.bfloat16),
        np.array([1.5, 2.0], ml_dtypes.float8_e4m3fn),
        np.array([1, -3], ml_dtypes.int4),
        np.array(["a", "\u00fc"]),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_come_back_as_they_were(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    found = kept_and_read(array, tmp_path / "a")
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert found.flags.writeable
    lying = [np.argsort([-abs(stride) for stride in each.strides], kind="stable").tolist() for each in (found, array)]
    assert lying[0] == lying[1]


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, True, 0.1, -0.0, math.inf, "\ud800 \u00fc", None, (), [1, [2]]),
        {(0, "a", "b"): 1, "x": {2: (3,)}, 4: {}},
        10**30,
    ],
)
def test_values_come_back_as_they_were(value: object, tmp_path: Path) -> None:
    assert repr(kept_and_read(value, tmp_path / "a")) == repr(value)


def test_dataclasses_and_scalars_come_back(tmp_path: Path) -> None:
    gram = Gram(3, SQUARE, SQUARE * 2, {(0, 1): SQUARE.T})
    found = kept_and_read([gram, Moments(2, SQUARE[0], SQUARE[1]), np.float32(0.1)], tmp_path / "a")
    assert (found[0].count, found[0].cross[0, 1].tobytes()) == (3, SQUARE.T.tobytes())
    assert isinstance(found[1], Moments)
    assert (type(found[2]), found[2]) == (np.float32, np.float32(0.1))


@pytest.mark.parametrize("value", [object(), np.array([object()]), {"a": MergeOptions()}])
def test_what_is_not_known_is_not_kept(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be kept"):
        kept_and_read(value, tmp_path / "a")


def opened(folder: Path) -> WorkFolder:
    return WorkFolder(work_folder(folder / "w"), lambda options: f"{options}")


def computing(value: object) -> tuple[list[object], Callable[[], object]]:
    calls: list[object] = []

    def compute() -> object:
        calls.append(value)
        return value

    return calls, compute


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "damage",
    [_flipped, lambda data: data[:-1], lambda data: data[1:], lambda data: data + b"x", lambda _: b"", lambda _: b"x"],
)
def test_what_is_damaged_is_computed_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    calls, compute = computing([SQUARE, 1])
    opened(tmp_path).kept("s", MergeOptions(), 1, compute)
    (file,) = (tmp_path / "w").glob("*.result")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = opened(tmp_path)
    np.testing.assert_array_equal(again.kept("s", MergeOptions(), 1, compute)[0], SQUARE)  # type: ignore[index]
    assert (len(calls), again.found, file.read_bytes()) == (2, 0, whole)


def test_a_result_is_found_by_all_that_determines_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compute = computing(1)

    def again(stage: str = "s", seed: int = 0, what: object = ((1,), None)) -> int:
        opened(tmp_path).kept(stage, MergeOptions(seed=seed), what, compute)
        return len(calls)

    assert [again(), again(), again(what=[[1], None])] == [1, 1, 1]
    assert [again("t"), again(seed=1), again(what=((2,), None)), again()] == [2, 3, 4, 4]
    monkeypatch.setattr(store, "environment", lambda: {"versions": "others"})
    assert again() == 5


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def fail() -> object:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        opened(tmp_path).kept("s", MergeOptions(), 1, fail)
    assert not list((tmp_path / "w").glob("*.result"))


def test_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST", 2500)
    folder = opened(tmp_path)
    for index in range(2):
        folder.kept(f"s{index}", MergeOptions(), 1, lambda: np.zeros(100))
        (file,) = (tmp_path / "w").glob(f"s{index}-*")
        os.utime(file, (index, index))
    folder.kept("s2", MergeOptions(), 1, lambda: np.zeros(100))
    assert folder.refused == 1  # what this run has used stays
    other = opened(tmp_path)
    other.kept("s0", MergeOptions(), 1, lambda: np.zeros(100))
    other.kept("s3", MergeOptions(), 1, lambda: np.zeros(100))
    other.kept("large", MergeOptions(), 1, lambda: np.zeros(1000))
    assert sorted(path.name[:2] for path in (tmp_path / "w").glob("*.result")) == ["s0", "s3"]
    (note,) = other.notes()
    assert note == f"{tmp_path / 'w'} keeps 2 results, 1.74 KB; used again: 1; no room for: 1"


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = opened(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    assert folder.kept("s", MergeOptions(), 1, lambda: 5) == 5
    assert (folder.refused, len(list((tmp_path / "w").iterdir()))) == (1, 1)


def test_a_folder_that_is_removed_meanwhile_stops_nothing(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    shutil.rmtree(tmp_path / "w")
    assert folder.kept("s", MergeOptions(), 1, lambda: 5) == 5
    assert folder.notes() == (f"{tmp_path / 'w'} keeps 0 results, 0 B; used again: 0; no room for: 1",)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"is no work folder, for it holds notes\.txt"):
        work_folder(tmp_path)
    with pytest.raises(InputError, match="its folder does not exist"):
        work_folder(tmp_path / "no" / "w")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_only_the_same_job_is_resumed(tmp_path: Path) -> None:
    folder, options = work_folder(tmp_path / "w"), MergeOptions()
    recipes = {seed: lambda _options, seed=seed: f'{{"seed": {seed}, "models": []}}' for seed in (1, 2)}
    begin(folder, options, recipes[1], resume=True)  # killed before it began, it begins
    begin(folder, options, recipes[1], resume=True)
    with pytest.raises(UsageError, match=r"--resume: .* was kept for another merge \(other seed\)"):
        begin(folder, options, recipes[2], resume=True)
    begin(folder, options, recipes[2], resume=False)
    begin(folder, options, recipes[2], resume=True)
    begin(folder, options, recipes[1], resume=True)


WAYS: Mapping[str, Mapping[str, Any]] = {
    "balanced": {},
    "rebasin": {"method": "rebasin", "weights": (1.0, 3.0)},
}
SLOW_WAYS: Mapping[str, Mapping[str, Any]] = {
    "best": {"effort": "best"},
    "zipit ls": {"method": "zipit", "refine": "ls", "answer": "ensemble"},
    "alpha auto": {"method": "mudsc-align", "alpha": "auto", "repair": "bias"},
    "auto auto": {"method": "auto"},
    "weights auto": {"weights": "auto", "outputs": "logits"},
    "regmean": {"method": "mudsc-align", "refine": "regmean"},
    "featcal": {"method": "act-align", "refine": "featcal"},
    "width": {"method": "zipit", "width": 1.5, "output_type": "float16"},
    "rotate": {"method": "mudsc-align", "rotate": True},
    "apart": {"method": "act-align", "share": 0.5},
    "no repair": {"method": "average", "repair": "none"},
}


class Killed(BaseException):
    """Stands for the end of the process."""


def merged(folder: Path, how: Mapping[str, Any], work: Path | None = None) -> tuple[bytes, tuple[str, ...]]:
    data = np.random.default_rng(0).normal(size=(210, 6)).astype(np.float32)
    models = [folder / "a.onnx", folder / "b.onnx"]
    result = merge(models, calibration=data, work_dir=work, resume=work is not None, **how)
    return result.save(folder / "m.onnx").read_bytes(), result.report.notes


def hold_to_the_same_bytes(
    how: Mapping[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, moments: Sequence[int]
) -> None:
    """Whether a merge by ``how`` gives the same bytes without a store, and with one that is empty, full, or between.

    ``moments``: after how many files, each time some more, it is killed.
    """
    write_pair(folder)
    plain, _ = merged(folder, how)
    work, write = folder / "w", WorkFolder.write
    left = 0

    def killed(self: WorkFolder, path: Path, fill: Callable[[Path], object]) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        write(self, path, fill)

    monkeypatch.setattr(WorkFolder, "write", killed)
    for moment in moments:
        left = moment
        try:
            found, _ = merged(folder, how, work)
        except Killed:
            continue
        assert found == plain
    monkeypatch.undo()
    found, _ = merged(folder, how, work)
    assert found == plain
    kept = len(list(work.glob("*.result")))
    found, notes = merged(folder, how, work)
    assert found == plain
    assert any(note.startswith(f"{work} keeps {kept} results") and "again: 0" not in note for note in notes)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bytes_come_out(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_to_the_same_bytes(WAYS[way], tmp_path, monkeypatch, [3])


def test_what_led_to_a_result_goes_when_it_is_kept_but_what_others_want(tmp_path: Path) -> None:
    folder = opened(tmp_path)

    def inner(stage: str) -> int:
        return folder.kept(stage, MergeOptions(), 1, lambda: 2)

    inner("layer")
    folder.kept("average", MergeOptions(), 1, lambda: [inner("layer"), inner("repair"), inner("matching")])
    stages = sorted(path.name.partition("-")[0] for path in (tmp_path / "w").glob("*.result"))
    assert stages == ["average", "layer", "matching"]  # the layer was there before


@pytest.mark.slow
@pytest.mark.parametrize("way", SLOW_WAYS)
def test_the_same_bytes_come_out_of_all_other_ways(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_to_the_same_bytes(SLOW_WAYS[way], tmp_path, monkeypatch, range(1, 8))


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path: Path, digits: Path) -> None:
    rng = np.random.default_rng(0)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "onnxmerge",
        "run",
        digits / "a.onnx",
        digits / "b.onnx",
        "-q",
        "-o",
        "m.onnx",
    ]
    command += ["--calib", digits / "calib.npz", "--samples", "300"]
    subprocess.run(command, cwd=tmp_path, check=True)
    plain = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").unlink()
    for _ in range(10):
        started = subprocess.Popen([*command, "--work-dir", "w", "--resume"], cwd=tmp_path)
        time.sleep(rng.uniform(0.1, 6.0))
        started.send_signal(signal.SIGKILL)
        assert started.wait() in (0, -signal.SIGKILL)
    subprocess.run([*command, "--work-dir", "w", "--resume"], cwd=tmp_path, check=True)
    assert (tmp_path / "m.onnx").read_bytes() == plain
    assert not [path for path in (tmp_path / "w").iterdir() if path.name.startswith(".")]
