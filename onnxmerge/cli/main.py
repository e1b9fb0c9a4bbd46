"""The group of commands, and how errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterator

import click

from onnxmerge.cli.commands import Commands
from onnxmerge.cli.files import Files
from onnxmerge.cli.interruption import Interruption, interruptible
from onnxmerge.errors import OnnxmergeError
from onnxmerge.report.terminal import Streams, complain, emit, guarded_streams
from onnxmerge.version import __version__, libraries

HELP = """Merge trained neural networks, as ONNX files, without training.

\b
Exit codes: 0 done; 1 bad input or model; 2 usage; 3 validation failed and nothing was published;
4 nothing was checked; 130, 143, 129 interrupted by SIGINT, SIGTERM, SIGHUP.
ONNXMERGE_TRACEBACK=1 shows where an error came from.
"""

ALLOCATIONS = 10_000
"""So many new objects make Python's garbage collector look through the newest (its own number is 700)."""


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    emit(f"onnxmerge {__version__}")
    emit(f"Python {platform.python_version()}, {', '.join(f'{name} {own}' for name, own in libraries().items())}")
    context.exit()


@click.group(
    cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, and those of the libraries, and exit.",
)
def commands() -> None:
    """Hold the commands."""


def main() -> None:
    """Run the command line. Every error that is the user's to act on ends as one line on standard error."""
    files = Files()
    with guarded_streams() as streams, _silent_libraries(), _collected_seldom():
        code = _code(files) or _code_of_output(streams, files)
    if code:
        sys.exit(code)


def _code(files: Files) -> int:
    """Run the command and say what went wrong; the exit code."""
    try:
        with interruptible():
            return int(commands.main(prog_name="onnxmerge", obj=files, standalone_mode=False) or 0)
    except click.ClickException as error:
        _complain_of_usage(error)
        return error.exit_code
    except Interruption as error:
        complain(f"{error}; {files.outcome}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):  # where signals are somebody else's: a thread of another program
        complain(f"interrupted; {files.outcome}")
        return Interruption(signal.SIGINT).exit_code
    except OnnxmergeError as error:
        _traceback()
        complain(f"error: {error}")
        return error.exit_code
    except MemoryError:
        _traceback()
        complain("error: out of memory; use a smaller --batch-size, or allow more with --max-memory")
    except OSError as error:
        _traceback()
        where = "" if error.filename is None else f"{error.filename}: "
        complain(f"error: {where}{error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not end in a page of traceback
        _traceback()
        complain(f"internal error: {type(error).__name__}: {error} (a bug: please report it)")
    return 1


def _code_of_output(streams: Streams, files: Files) -> int:
    """Whether all was said: what was written stays in any case."""
    failure = streams.failure
    if failure is None:
        return 0
    complain(f"error: standard output cannot be written ({failure.strerror or failure}); {files.outcome}")
    return 1


def _complain_of_usage(error: click.ClickException) -> None:
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        usage = error.ctx.get_usage()
        if message.startswith(usage):  # no command was given: all of the help
            emit(message, error=True)
            return
        emit(f"{usage}\nTry '{error.ctx.command_path} --help' for help.\n\n", error=True)
    complain(f"Error: {message}")


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Leave out what libraries warn of: the user can act on none of it, and what matters is checked here."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *_args, **_kwargs: None
        unheard, root = logging.NullHandler(), logging.getLogger()
        root.addHandler(unheard)  # without any, Python prints warnings to standard error
        try:
            yield
        finally:
            root.removeHandler(unheard)


@contextlib.contextmanager
def _collected_seldom() -> Iterator[None]:
    """Look for garbage in cycles less often: while a graph of many nodes is built there is none to be found."""
    usual = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _traceback() -> None:
    if os.environ.get("ONNXMERGE_TRACEBACK"):
        sys.excepthook(*sys.exc_info())
