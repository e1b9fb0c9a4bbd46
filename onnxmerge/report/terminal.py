"""The only way to the terminal: lines and tables that nothing in them can steer, on streams that may fail.

Names come from files that anybody may have made. So no markup is read in what is printed, and whatever a terminal would
act on is escaped (``text.printable``). The streams are guarded: a reader that has gone away (``| head``) ends the
output but not the command, and a stream that cannot be written is remembered until the command has done its work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from onnxmerge.text import clamped, printable

_WIDE = 200


class Terminal(Console):
    """A console that shows every string as it is, escaped where it is not printable."""

    def render_str(self, text: str, **options: Any) -> Text:
        """All strings come through here: lines, and the titles and cells of tables."""
        return super().render_str(printable(text), **options)

    def say(self, text: str) -> None:
        """Print a line, which the terminal may wrap but a pipe does not."""
        self.print(text, soft_wrap=True)


def terminal(*, error: bool = False) -> Terminal:
    """A console on standard output or error; in a pipe lines are long enough for any table."""
    plain: dict[str, Any] = {"stderr": error, "highlight": False, "markup": False, "emoji": False}
    console = Terminal(**plain)
    return console if console.is_terminal else Terminal(**plain, width=_WIDE)


def emit(text: str, *, error: bool = False) -> None:
    """Print text of this program's own as it is: help, and JSON and YAML, which escape what is not printable."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text if text.endswith("\n") else f"{text}\n")
    stream.flush()


def complain(message: str) -> None:
    """Print a message to standard error, as one line that is not too long."""
    sys.stderr.write(clamped(printable(" ".join(message.split()))) + "\n")
    sys.stderr.flush()


class _Guarded:
    """A stream that fails once at most, and in silence: ``failure`` says how."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Lead the stream nowhere: what it still holds would fail again when Python ends."""
        self.failure = self.failure or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError):
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Streams:
    """Standard output and error while they are guarded."""

    def __init__(self, output: _Guarded) -> None:
        self._output = output

    @property
    def failure(self) -> OSError | None:
        """Why standard output could not be written; None where it could, or where its reader wanted no more."""
        self._output.flush()
        failure = self._output.failure
        return None if isinstance(failure, BrokenPipeError) else failure


@contextlib.contextmanager
def guarded_streams() -> Iterator[Streams]:
    """Guard standard output and error. A stream that is closed leads nowhere: a file would else get its number."""
    _open_closed()
    output, error = _Guarded(sys.stdout), _Guarded(sys.stderr)
    with contextlib.redirect_stdout(cast("TextIO", output)), contextlib.redirect_stderr(cast("TextIO", error)):
        yield Streams(output)
        error.flush()


def _open_closed() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: in order, its own
            setattr(sys, name, open(opened, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
