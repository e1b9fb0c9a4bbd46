"""Code of the user's inside this process: what it raises is its error, and what it does to the process ends with it.

A calibration script may call ``sys.exit``, change the working directory, print, switch NumPy's warnings to errors or
raise KeyboardInterrupt. None of that may reach the merge: a file would be written elsewhere, JSON on standard output
would be spoilt, a failure would look like success. A signal of the user's (Ctrl-C) still goes through.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from types import FrameType

import numpy as np

from onnxmerge.errors import InputError, OnnxmergeError
from onnxmerge.text import reason, shown

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(slots=True)
class Foreign:
    """A program of the user's, called ``origin`` in messages; ``folder`` is the working directory that it left."""

    origin: str
    folder: str | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the program in the block. Whatever it raises becomes an InputError of one line."""
        ours = _folder()
        if self.folder not in (None, ours):
            os.chdir(self.folder)
        try:
            with _signals(), _output_to_error(), np.errstate(), warnings.catch_warnings():
                try:
                    yield
                except OnnxmergeError:
                    raise
                except BaseException as error:
                    raise self._blamed(error) from error
        finally:
            self.folder = _folder()
            if ours is not None and ours != self.folder:
                os.chdir(ours)

    def _blamed(self, error: BaseException) -> InputError:
        if isinstance(error, SystemExit):
            return InputError(f"{self.origin} ended with exit code {shown(error.code)}; it is to return data")
        return InputError(f"{self.origin} raised {type(error).__name__}: {reason(error)}")


def _folder() -> str | None:
    """The working directory; None where it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109 - a string is what goes back to chdir
    except OSError:
        return None


@contextmanager
def _output_to_error() -> Iterator[None]:
    """Lead what the block prints to standard error, and what processes print that it starts."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        kept = None
    try:
        if kept is not None:
            with suppress(OSError):
                os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


@contextmanager
def _signals() -> Iterator[None]:
    """Let what the handler of a signal raises out of the block, whatever the block made of it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread alone
        return
    raised: list[BaseException] = []

    def noting(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                raised.append(error)
                raise

        return handle

    before = {number: found for number in _SIGNALS if callable(found := signal.getsignal(number))}
    for number, handler in before.items():
        signal.signal(number, noting(handler))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if raised:
            raise raised[0]
