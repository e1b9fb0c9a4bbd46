"""Signals that end a command clean up after it as an error does: SIGINT, SIGTERM, SIGHUP."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_FIRST = 128
"""A shell's exit code for a command that a signal ended is this plus its number."""
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interruption(BaseException):
    """A signal told this process to end. No KeyboardInterrupt: a user's script may raise one of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        return _FIRST + self.number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"ended by {self.number.name}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have the signals raise `Interruption` while the block runs. Who started this process may have it ignore them."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers, or is interrupted
        before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interruption(number)
