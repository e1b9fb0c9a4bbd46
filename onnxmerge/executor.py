"""Where independent pieces of work run: one after the other in this process, or wherever an executor takes them.

A stage that has such pieces hands them to the executor of its job, and adds up or compares what comes back in the order
of the pieces. So a result does not depend on where they ran, nor on how many workers there were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

cores: ContextVar[int | None] = ContextVar("cores", default=None)
"""How many threads what begins now may have; None where it may have all cores of the process."""


def cores_of_process() -> int:
    """How many cores the system lets this process run on: not all where ``taskset`` or a container says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Work(Protocol[Item_contra, Result_co]):
    """What is done with each of some items: a value that can be sent to another process, as its items and results."""

    def open(self) -> Callable[[Item_contra], Result_co]:
        """Get ready, once in each process that takes part; what this gives is called with one item after the other."""
        ...


class Executor:
    """Runs work in this process: an item when its result is asked for."""

    def map(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items. Raises what the work raises."""
        run = work.open()
        for item in items:
            yield run(item)


HERE = Executor()
