"""Sources: what they read, how they cut it, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource, open_source
from onnxmerge.calibration.specs import InputSpec, conform_all, input_specs
from onnxmerge.calibration.subset import hold_out
from onnxmerge.errors import InputError, UsageError
from tests.graphs import build

F32 = np.dtype(np.float32)
ONE = (InputSpec("x", (None, 3), F32),)
TWO = (InputSpec("ids", (None, 4), np.dtype(np.int64)), InputSpec("mask", (None, 4), np.dtype(np.bool_)))
DATA = np.arange(30, dtype=np.float32).reshape(10, 3)


def drain(source: CalibrationSource) -> list[dict[str, NDArray[Any]]]:
    return list(source)


def sizes(source: CalibrationSource) -> list[int]:
    return [len(next(iter(feed.values()))) for feed in drain(source)]


def saved(folder: Path, kind: str) -> Path:
    path = folder / f"data.{kind}"
    if kind == "npy":
        np.save(path, DATA)
    elif kind == "npz":
        np.savez(path, anything=DATA)
    else:
        path = folder / "data"
        path.mkdir()
        np.save(path / "2.npy", DATA[4:])
        np.savez_compressed(path / "1.npz", x=DATA[:4], labels=np.arange(4))
        (path / ".hidden").touch()
        (path / "notes.txt").touch()
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "folder"])
def test_files_are_cut_into_batches(tmp_path: Path, kind: str) -> None:
    source = open_source(str(saved(tmp_path, kind)), ONE, batch_size=4)
    assert sizes(source) == [4, 4, 2]
    assert source.batches == 3
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in drain(source)]), DATA)
    assert source.digest() == open_source(DATA, ONE).digest()


def test_where_axis_0_is_no_batch_the_digest_depends_on_the_feeds() -> None:
    inputs = (*ONE, InputSpec("s", (1,), F32))
    switch = np.zeros(1, np.float32)
    one, same, other = (
        open_source([{"x": rows, "s": switch} for rows in np.split(DATA, [first])], inputs).digest()
        for first in (5, 5, 4)
    )
    assert one == same != other


def test_digest_depends_on_the_data_alone() -> None:
    of = open_source(DATA, ONE, batch_size=3).digest()
    assert of == open_source({"x": DATA.astype(np.float64)}, ONE, batch_size=7).digest()
    assert of == open_source([{"x": row} for row in DATA], ONE).digest()
    assert of != open_source(DATA, ONE, samples=9).digest()
    assert of != open_source(DATA + 1, ONE).digest()
    assert len(of) == 64


def test_samples_limit_and_progress_total() -> None:
    source = open_source(DATA, ONE, samples=7, batch_size=4)
    assert source.batches == 2
    assert sizes(source) == [4, 3]
    assert sizes(open_source(iter(DATA), ONE, samples=7, batch_size=4)) == [4, 3]


def test_fixed_batch_is_kept_and_an_incomplete_one_left_out() -> None:
    fixed = (InputSpec("x", (4, 3), F32),)
    source = open_source(DATA, fixed, batch_size=64)
    assert sizes(source) == [4, 4]
    assert source.batches == 2
    assert sizes(open_source(DATA, (InputSpec("x", (1, 3), F32),))) == [1] * 10
    with pytest.raises(InputError, match="fewer than the 4 samples"):
        drain(open_source(DATA[:3], fixed))


def test_several_inputs_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, mask=np.ones((6, 4), bool), ids=np.arange(24, dtype=np.int32).reshape(6, 4))
    feeds = drain(open_source(path, TWO, batch_size=4))
    assert [feed["ids"].dtype for feed in feeds] == [np.int64, np.int64]
    assert feeds[1]["ids"][0, 0] == 16
    assert feeds[1]["mask"].shape == (2, 4)


def test_fortran_order_and_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmerge.calibration.chunks._BLOCK_BYTES", 24)  # two rows at once
    for name, array in (("f", np.asfortranarray(DATA)), ("c", DATA)):
        np.savez_compressed(tmp_path / f"{name}.npz", x=array)
        feeds = drain(open_source(tmp_path / f"{name}.npz", ONE, batch_size=3))
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), DATA)


def test_inputs_that_are_not_batched_are_fed_as_they_come() -> None:
    specs = (
        InputSpec("x", (None, None), F32),
        InputSpec("state", (2, None, 1), F32),
        InputSpec("rate", (), np.dtype("i8")),
    )
    feed: dict[str, Any] = {"x": np.ones((3, 5)), "state": np.zeros((2, 3, 1)), "rate": np.int64(16000)}
    feeds = drain(open_source([feed, feed, feed], specs, samples=2, batch_size=1))
    assert [f["x"].shape for f in feeds] == [(3, 5), (3, 5)]
    assert feeds[0]["rate"].shape == ()


def test_recordings_of_different_length_make_batches_of_their_own() -> None:
    specs = (InputSpec("x", (None, None), F32),)
    feeds = drain(
        open_source([np.ones((1, 5)), np.ones((1, 5)), np.ones((1, 7)), np.ones((1, 5))], specs, batch_size=4)
    )
    assert [feed["x"].shape for feed in feeds] == [(2, 5), (1, 7), (1, 5)]


def test_casts_that_lose_nothing_that_matters() -> None:
    half = (InputSpec("x", (None, 3), np.dtype(np.float16)),)
    assert drain(open_source(DATA, half))[0]["x"].dtype == np.float16
    brain = (InputSpec("x", (None, 3), np.dtype(ml_dtypes.bfloat16)),)
    assert drain(open_source(DATA, brain))[0]["x"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5), np.float32), r"input 'x' \(float32 \?x3\) expected, found shape 4x5"),
        (np.zeros((4, 2, 5), np.float32), "found shape 4x2x5"),
        (np.zeros((4, 3), np.uint8), r"expected, found uint8; convert"),
        (np.array([[1, 2, 3], [1, np.nan, 3]]), "NaN, infinite or overflowing value in sample 1"),
        (np.full((2, 3), 1e300), "overflowing value in sample 0"),
        (np.zeros((0, 3), np.float32), "holds no samples"),
    ],
)
def test_what_is_refused_names_file_input_expected_and_found(tmp_path: Path, array: Any, message: str) -> None:
    path = tmp_path / "bad.npy"
    np.save(path, array)
    with pytest.raises(InputError, match=message) as caught:
        drain(open_source(path, ONE))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_integers_must_fit() -> None:
    narrow = (InputSpec("x", (None, 1), np.dtype(np.int32)),)
    with pytest.raises(InputError, match=r"uint64 values 1\.\.4294967296 do not fit"):
        drain(open_source(np.array([[1], [2**32]], np.uint64), narrow))


def test_names_and_numbers_of_samples() -> None:
    with pytest.raises(InputError, match=r"nothing for input 'mask'.*found other"):
        open_source({"ids": np.zeros((2, 4), int), "other": np.zeros(2)}, TWO)
    with pytest.raises(InputError, match="different numbers of samples"):
        open_source({"ids": np.zeros((2, 4), int), "mask": np.zeros((3, 4), bool)}, TWO)
    with pytest.raises(InputError, match="nothing for input 'ids'"):
        open_source(DATA, TWO)


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"broken.{kind[-3:]}"
    if kind.endswith("npz"):
        (np.savez if kind == "plain npz" else np.savez_compressed)(
            path, x=np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
        )
        whole = path.read_bytes()
        path.write_bytes(whole[:2000] + b"\0" * 100 + whole[2100:])
    elif kind == "npy":
        np.save(path, DATA)
        path.write_bytes(path.read_bytes()[:-10])
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "plain npz"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(InputError, match=f"{path}: cannot be read as a NumPy {kind[-3:]} file"):
        drain(open_source(path, ONE))


@pytest.mark.parametrize("array", [DATA, np.asfortranarray(DATA), DATA[:1]], ids=["rows", "columns", "one"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_wherever_an_array_lies_in_them(
    tmp_path: Path, save: Callable[..., None], array: NDArray[np.float32]
) -> None:
    path = tmp_path / "a.npz"
    save(path, labels=np.arange(7), x=array, more=np.zeros(0))
    feeds = drain(open_source(path, ONE, batch_size=3))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), array)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pickles_are_never_loaded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"evil.{kind}"
    (np.save if kind == "npy" else np.savez)(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        drain(open_source(path, ONE))


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; calibration data is expected"):
        open_source(tmp_path / "absent.npy", ONE)
    with pytest.raises(InputError, match=r"holds no \.npy"):
        open_source(tmp_path, ONE)
    (tmp_path / "data.csv").touch()
    with pytest.raises(InputError, match=r"a \.npy or \.npz file"):
        open_source(tmp_path / "data.csv", ONE)
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="both arrays"):
        open_source(tmp_path, ONE)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UsageError):
        open_source(DATA, ONE, batch_size=0)
    with pytest.raises(UsageError):
        open_source(DATA, ONE, samples=0)
    with pytest.raises(InputError, match="no inputs"):
        open_source(DATA, ())


def test_inputs_are_read_off_the_model() -> None:
    model = ir.from_proto(build("(float16[batch,3,8] x, int64 k) => (float16[batch,3,8] y) { y = Identity(x) }"))
    assert input_specs(model) == (
        InputSpec("x", (None, 3, 8), np.dtype(np.float16)),
        InputSpec("k", (), np.dtype(np.int64)),
    )
    words = ir.from_proto(build("(string[n] x) => (string[n] y) { y = Identity(x) }"))
    with pytest.raises(InputError, match="'x'"):
        input_specs(words)


class Rewindable:
    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        self.rows = iter(DATA)

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


class OneWay:
    def __init__(self) -> None:
        self.rows = iter(DATA)

    get_next = Rewindable.get_next


def generator() -> Iterator[NDArray[np.float32]]:
    yield from DATA


@pytest.mark.parametrize("spec", [Rewindable(), Rewindable, OneWay, generator, list(DATA)])
def test_readers_and_functions_can_be_read_again(spec: Any) -> None:
    source = open_source(spec, ONE, batch_size=4)
    assert sizes(source) == sizes(source) == [4, 4, 2]


@pytest.mark.parametrize(("spec", "advice"), [(OneWay(), r"rewind\(\) method"), (generator(), "pass a function")])
def test_what_can_be_read_once_says_so_the_second_time(spec: Any, advice: str) -> None:
    source = open_source(spec, ONE, batch_size=4)
    assert sizes(source) == [4, 4, 2]
    assert len(source.digest()) == 64
    with pytest.raises(InputError, match=advice):
        drain(source)


class OneBuffer(Rewindable):
    """Fills one array again and again."""

    def __init__(self) -> None:
        self.buffer = np.zeros((1, 3), np.float32)
        super().__init__()

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.rows, None)
        if row is None:
            return None
        self.buffer[0] = row
        return {"x": self.buffer}


@pytest.mark.parametrize("size", [1, 4, 64])
def test_batches_own_their_memory_where_a_reader_reuses_its_buffer(size: int) -> None:
    for given in (OneBuffer, OneBuffer()):
        found = drain(open_source(given, ONE, batch_size=size))
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found]), DATA)


@pytest.mark.parametrize("spec", [Rewindable(), Rewindable, OneBuffer(), generator, list(DATA), DATA])
def test_passes_that_overlap_each_give_all_samples(spec: Any) -> None:
    source = open_source(spec, ONE, batch_size=1)
    early, late = iter(source), iter(source)
    found: tuple[list[Any], list[Any]] = [], []
    for turn in (0, 0, 1, 0, 1, 1, 1, 0):
        found[turn].append(next((early, late)[turn])["x"])
    for rows, rest in zip(found, (early, late), strict=True):
        np.testing.assert_array_equal(np.concatenate([*rows, *(feed["x"] for feed in rest)]), DATA)


class Counting:
    """Feeds of one row each; counts how many were read, and fails at one of them for a while."""

    def __init__(self, fails: int | None = None) -> None:
        self.read, self.fails = 0, fails

    def __call__(self) -> Iterator[dict[str, Any]]:
        for place, row in enumerate(DATA):
            if place == self.fails:
                self.fails = None
                raise RuntimeError("once")
            self.read += 1
            yield {"x": row[None]}


ROW = DATA[0].nbytes


@pytest.mark.parametrize(("room", "first", "later"), [(0, 10, 10), (4 * ROW, 10, 10), (10 * ROW, 10, 0)])
def test_what_is_kept_is_read_once(room: int, first: int, later: int) -> None:
    given = Counting()
    source = open_source(given, ONE, batch_size=1, room=room)
    for read in (first, later, later):
        before = given.read
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in drain(source)]), DATA)
        assert given.read - before == read
    assert [feed["x"][0, 0] for feed in source.at([1, 7])] == [DATA[1, 0], DATA[7, 0]]
    assert source.sizes == (1,) * 10
    assert source.digest() == open_source(DATA, ONE).digest()


@pytest.mark.parametrize("room", [0, 3 * ROW, 10 * ROW])
def test_passes_that_overlap_share_what_is_kept(room: int) -> None:
    given = Counting()
    source = open_source(given, ONE, batch_size=1, room=room)
    pairs = list(zip(source, source, source, strict=True))
    assert all(one["x"] is other["x"] or room < 10 * ROW for one, other, _ in pairs)
    for several in zip(*pairs, strict=True):
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in several]), DATA)
    assert given.read == (10 if room == 10 * ROW else 30)


def test_what_is_kept_does_not_hold_the_array_that_it_was_cut_from() -> None:
    source = open_source(lambda: iter([DATA]), ONE, samples=4, batch_size=2, room=10 * ROW)
    assert sizes(source) == [2, 2]
    kept = [feed["x"] for feed in source]
    np.testing.assert_array_equal(np.concatenate(kept), DATA[:4])
    for array in kept:
        assert (array if array.base is None else array.base).nbytes == array.nbytes


@pytest.mark.parametrize("room", [0, 2 * ROW])
@pytest.mark.parametrize("again", [DATA[:5], DATA[:9], DATA + 1])
def test_other_feeds_at_the_second_reading_are_refused(room: int, again: NDArray[Any]) -> None:
    given = iter([DATA, again])
    source = open_source(lambda: iter([next(given)]), ONE, batch_size=2, room=room)
    assert source.sizes == (2, 2, 2, 2, 2)
    with pytest.raises(InputError, match="other feeds when it is read again"):
        list(hold_out(source, divisible=True).fit)


def test_a_reading_that_failed_is_begun_anew() -> None:
    given = Counting(fails=5)
    source = open_source(given, ONE, batch_size=1, room=10 * ROW)
    with pytest.raises(InputError, match="once"):
        drain(source)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in drain(source)]), DATA)


def test_what_can_be_had_by_its_place_is_not_read_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noting(part: Any, *args: Any, **options: Any) -> Any:
        seen.append(options["first"])
        return conform_all(part, *args, **options)

    monkeypatch.setattr("onnxmerge.calibration.chunks.conform_all", noting)
    source = open_source(DATA, ONE, batch_size=4, samples=9, room=5 * ROW)
    assert source.sizes == (4, 4, 1)
    assert [feed["x"][0, 0] for feed in source.at([1, 2])] == [DATA[4, 0], DATA[8, 0]]
    assert seen == [4, 8]
    assert source.findings().rows == 9
    seen.clear()
    whole = open_source(DATA.astype(np.float64), ONE, batch_size=1, room=10 * ROW)
    assert len(drain(whole)) == len(drain(whole)) == len(seen) == 10
    seen.clear()
    for _ in range(2):  # there is room for one feed: the first one that is wanted after all was read
        assert [feed["x"][0, 0] for feed in source.at([1])] == [DATA[4, 0]]
    assert seen == [4]


def test_a_reader_that_a_function_returns_again_is_rewound() -> None:
    reader = Rewindable()
    source = open_source(lambda: reader, ONE, batch_size=4)
    assert sizes(source) == sizes(source) == [4, 4, 2]
    once = generator()
    with pytest.raises(InputError, match="pass a function that makes it"):
        [drain(source) for source in [open_source(lambda: once, ONE)] * 2]


def test_scripts_run_their_function_at_every_pass(tmp_path: Path) -> None:
    script = tmp_path / "feeds.py"
    script.write_text(
        "import numpy as np\n"
        "def good():\n    return ({'x': np.full((2, 3), i, np.float32)} for i in range(3))\n"
        "def bad():\n    yield {'x': np.zeros((2, 3), np.float32)}\n    raise RuntimeError('disk on fire')\n"
        "def odd():\n    return 3\n"
        "number = 3\n"
    )
    source = open_source(f"{script}:good", ONE, batch_size=4)
    assert sizes(source) == sizes(source) == [4, 2]
    with pytest.raises(InputError, match=r"feeds\.py:bad raised RuntimeError: disk on fire"):
        drain(open_source(f"{script}:bad", ONE))
    with pytest.raises(InputError, match=r"an iterable of .* is expected, found int"):
        drain(open_source(f"{script}:odd", ONE))
    for name in ("number", "absent"):
        with pytest.raises(InputError, match=f"defines no function '{name}'"):
            open_source(f"{script}:{name}", ONE)
    with pytest.raises(InputError, match="no such file; a script is expected"):
        open_source(f"{tmp_path / 'none.py'}:f", ONE)
    script.write_text("import nothing_of_that_name")
    with pytest.raises(InputError, match=r"feeds\.py raised ModuleNotFoundError"):
        open_source(f"{script}:good", ONE)


def test_a_script_is_not_run_unless_a_function_is_named(tmp_path: Path) -> None:
    script = tmp_path / "feeds.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(InputError, match=r"a \.npy or \.npz file"):
        open_source(script, ONE)


def for_ever() -> Iterator[NDArray[np.float32]]:
    while True:
        yield np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def empty_for_ever() -> Iterator[NDArray[np.float32]]:
    while True:
        yield np.zeros((0, 3), np.float32)


def test_data_without_end_is_read_up_to_a_bound_which_is_said() -> None:
    source = open_source(for_ever, ONE, endless=70, batch_size=32)
    assert sizes(source) == sizes(source) == [32, 32, 6]
    assert source.notes() == ["calibration function: only its first 70 samples were used; --samples says how many"]
    assert not open_source(for_ever, ONE, samples=70).notes()
    assert not open_source(generator, ONE, endless=10).notes()
    with pytest.raises(InputError, match="no samples"):
        drain(open_source(empty_for_ever, ONE, endless=9))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((9, 3)), ["calibration array: 9 samples, all zero"]),
        (np.zeros((1, 3)), ["calibration array: 1 samples, all zero"]),
        (np.tile([[1, 2, 3]], (9, 1)), ["calibration array: 9 samples, all equal"]),
        (np.eye(3), []),
    ],
)
def test_data_that_says_nothing_is_told(data: Any, said: list[str]) -> None:
    found = open_source(data.astype(np.float32), ONE, batch_size=2).notes()
    assert len(found) == len(said)
    assert all(one.startswith(other) for one, other in zip(found, said, strict=True))
