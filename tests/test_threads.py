from __future__ import annotations

import threading

import numpy as np
import pytest

from onnxmerge import threads
from onnxmerge.errors import InputError
from onnxmerge.threads import AT_ONCE_BYTES, SMALL_BYTES, Piece, at_once

LARGE = 2 * SMALL_BYTES


@pytest.mark.parametrize(
    "sizes",
    [[], [1], [LARGE], [LARGE, LARGE], [1, LARGE, AT_ONCE_BYTES + 1, 3, LARGE], [AT_ONCE_BYTES // 2 + 1] * 3],
)
def test_every_piece_is_done_once(sizes: list[int]) -> None:
    calls: list[int] = []
    pieces = [Piece(index, size) for index, size in enumerate(sizes)]

    def square(index: int) -> int:
        calls.append(index)
        return index**2

    found = at_once(square, pieces)
    assert found == {index: index**2 for index in range(len(sizes))}
    assert sorted(calls) == list(range(len(sizes)))


def test_large_pieces_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wait for each other: one after the other they would wait for ever."""
    monkeypatch.setattr(threads, "cores_of_process", lambda: 2)
    both = threading.Barrier(2, timeout=60)
    at_once(lambda _: both.wait(), [Piece(0, LARGE), Piece(1, LARGE)])


def test_pieces_that_do_not_fit_together_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores_of_process", lambda: 4)
    running, most = threading.Semaphore(1), AT_ONCE_BYTES

    def alone(_: int) -> None:
        assert running.acquire(blocking=False)
        running.release()

    at_once(alone, [Piece(index, most) for index in range(5)])


def test_an_error_is_raised() -> None:
    def fail(index: int) -> int:
        if index == 1:
            raise InputError("space p1: no")
        return index

    with pytest.raises(InputError, match="space p1"):
        at_once(fail, [Piece(index, LARGE) for index in range(4)])


def test_of_several_errors_that_of_the_largest_piece_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the others come first."""
    monkeypatch.setattr(threads, "cores_of_process", lambda: 3)
    failed = threading.Semaphore(0)

    def fail(index: int) -> None:
        if index == 2:
            assert all(failed.acquire(timeout=60) for _ in range(2))
        failed.release()
        raise InputError(f"piece {index}")

    with pytest.raises(InputError, match="piece 2"):
        at_once(fail, [Piece(0, LARGE), Piece(1, LARGE), Piece(2, 2 * LARGE)])


@pytest.mark.parametrize("cores", [1, 2])
def test_on_one_core_it_is_the_same_error(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(threads, "cores_of_process", lambda: cores)

    def fail(index: int) -> None:
        raise InputError(f"piece {index}")

    with pytest.raises(InputError, match="piece 1"):
        at_once(fail, [Piece(0, LARGE), Piece(1, 2 * LARGE), Piece(2, LARGE)])


def test_a_piece_begins_as_soon_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small ones one after the other beside the large one, which waits for the last of them."""
    monkeypatch.setattr(threads, "cores_of_process", lambda: 2)
    last = threading.Event()

    def run(index: int) -> None:
        if index == 0:
            assert last.wait(timeout=60)
        elif index == 3:
            last.set()

    at_once(run, [Piece(0, 2 * LARGE), *(Piece(index, LARGE) for index in (1, 2, 3))], most=3 * LARGE)


def test_what_the_caller_ignores_is_ignored_in_threads() -> None:
    pieces = [Piece(1e30, LARGE), Piece(2.0, LARGE)]
    with np.errstate(over="ignore"):
        found = at_once(lambda value: float(np.float32(value) * np.float32(value)), pieces)
    assert found == {1e30: np.inf, 2.0: 4.0}
