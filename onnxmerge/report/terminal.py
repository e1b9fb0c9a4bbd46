"""Standard output: rich on a terminal, plain text of a fixed width in a pipe."""

from __future__ import annotations

from rich.console import Console

_WIDE = 200


def terminal() -> Console:
    """A console on standard output; in a pipe lines are long enough for any table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)
