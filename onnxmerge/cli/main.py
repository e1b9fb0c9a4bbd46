"""The group of commands, and how errors become one line and an exit code."""

from __future__ import annotations

import os
import sys

import click

from onnxmerge.cli.commands import Commands
from onnxmerge.errors import OnnxmergeError
from onnxmerge.version import __version__

INTERRUPTED = 130

HELP = """Merge trained neural networks, as ONNX files, without training.

\b
Exit codes: 0 done; 1 bad input or model; 2 usage; 3 validation failed and nothing was published; 130 interrupted.
ONNXMERGE_TRACEBACK=1 shows where an error came from.
"""


@click.group(
    cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="onnxmerge")
def commands() -> None:
    """Hold the commands."""


def main() -> None:
    """Run the command line. Every error that is the user's to act on ends as one line on standard error."""
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; nothing was written")
        sys.exit(INTERRUPTED)
    except OnnxmergeError as error:
        _traceback()
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except MemoryError:
        _traceback()
        _say("error: out of memory; use a smaller --batch-size, or allow more with --max-memory")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not end in a page of traceback
        _traceback()
        first = str(error).strip().splitlines()
        _say(f"internal error: {type(error).__name__}: {first[0] if first else ''} (a bug: please report it)")
        sys.exit(1)


def _traceback() -> None:
    if os.environ.get("ONNXMERGE_TRACEBACK"):
        sys.excepthook(*sys.exc_info())


def _say(line: str) -> None:
    click.echo(" ".join(line.split()), err=True)
