"""Pieces of work that do not depend on each other are done at once, on the processor's cores.

BLAS, numpy and scipy's assignment let other threads run meanwhile. What is found does not depend on how many there are.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from onnxmerge.executor import cores, cores_of_process

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE_BYTES = 1 << 27
"""Memory of the pieces that are worked on at once, by default; one alone may take more."""

SMALL_BYTES = 1 << 20
"""A piece that takes less memory is done before a thread would have begun with it."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[Item]):
    """A piece of work, and about how much memory it takes."""

    item: Item
    nbytes: int


def at_once(
    run: Callable[[Item], Result], pieces: Sequence[Piece[Item]], *, most: int = AT_ONCE_BYTES
) -> dict[Item, Result]:
    """What ``run`` gives for each piece, the largest first; those under way take at most ``most`` bytes, or are one.

    Raises what it raises, of several errors always the same one.
    """
    found: dict[Item, Result] = {}
    large = sorted((piece for piece in pieces if piece.nbytes >= SMALL_BYTES), key=lambda piece: -piece.nbytes)
    settings = np.geterr()  # numpy 1 keeps it for each thread

    def run_alike(context: contextvars.Context, item: Item) -> Result:
        with np.errstate(**settings):
            return context.run(run, item)

    workers = cores.get() or cores_of_process()
    if len(large) > 1 and workers > 1:
        waiting, under_way = deque(large), dict[Future[Result], Piece[Item]]()
        with ThreadPoolExecutor(workers) as pool:
            try:
                while waiting or under_way:
                    while waiting and _fits(waiting[0], under_way.values(), workers, most):
                        piece = waiting.popleft()
                        under_way[pool.submit(run_alike, contextvars.copy_context(), piece.item)] = piece
                    wait(under_way, return_when=FIRST_COMPLETED)
                    for future, piece in [each for each in under_way.items() if each[0].done()]:
                        if future.exception() is not None:
                            wait(under_way)
                            raise next(error for each in under_way if (error := each.exception()) is not None)
                        found[piece.item] = future.result()
                        del under_way[future]
            except BaseException:  # an interruption too: nobody waits for what has not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    for piece in (*large, *pieces):
        if piece.item not in found:
            found[piece.item] = run(piece.item)
    return found


def _fits(piece: Piece[Item], under_way: Collection[Piece[Item]], workers: int, most: int) -> bool:
    """Whether a piece may be begun beside others."""
    taken = sum(each.nbytes for each in under_way)
    return not under_way or (len(under_way) < workers and taken + piece.nbytes <= most)
