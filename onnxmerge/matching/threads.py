"""Groups that share no initializer are matched at once, on the processor's cores.

BLAS, numpy and scipy's assignment let other threads run meanwhile. What is found does not depend on how many there are.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from onnxmerge.executor import cores, cores_of_process

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE_BYTES = 1 << 27
"""Memory of the pieces that are worked on at once; one alone may take more."""

SMALL_BYTES = 1 << 20
"""A piece that takes less memory is done before a thread would have begun with it."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[Item]):
    """A piece of work, and about how much memory it takes."""

    item: Item
    nbytes: int


def at_once(run: Callable[[Item], Result], pieces: Sequence[Piece[Item]]) -> dict[Item, Result]:
    """What ``run`` gives for each piece, the largest first. Raises what it raises."""
    found: dict[Item, Result] = {}
    large = sorted((piece for piece in pieces if piece.nbytes >= SMALL_BYTES), key=lambda piece: -piece.nbytes)
    settings = np.geterr()  # numpy 1 keeps it for each thread

    def run_alike(context: contextvars.Context, item: Item) -> Result:
        with np.errstate(**settings):
            return context.run(run, item)

    workers = cores.get() or cores_of_process()
    if len(large) > 1 and workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            for items in _fitting(large):
                contexts = [contextvars.copy_context() for _ in items]
                try:
                    found.update(zip(items, pool.map(run_alike, contexts, items), strict=True))
                except BaseException:  # an interruption too: nobody waits for what has not begun
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    for piece in pieces:
        if piece.item not in found:
            found[piece.item] = run(piece.item)
    return found


def _fitting(pieces: Sequence[Piece[Item]]) -> Iterator[list[Item]]:
    """The items of pieces in lists whose memory may be taken at once."""
    items, taken = list[Item](), 0
    for piece in pieces:
        if items and taken + piece.nbytes > AT_ONCE_BYTES:
            yield items
            items, taken = [], 0
        items.append(piece.item)
        taken += piece.nbytes
    yield items
