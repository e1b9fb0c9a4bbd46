"""The table of groups: numbers everywhere, bars where somebody looks."""

from __future__ import annotations

import io

import pytest

from onnxmerge.api.outcome import GroupReport
from onnxmerge.report.console import _print_groups
from onnxmerge.report.terminal import Terminal

GROUPS = [GroupReport("p0", 4, 4, (), 0.1, after) for after in (0.0, 0.52, 1.0, None)]


def printed(encoding: str, *, terminal: bool) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    _print_groups(Terminal(file=stream, width=100, force_terminal=terminal, color_system=None), GROUPS, "groups")
    stream.flush()
    stream.seek(0)
    return stream.read()


@pytest.mark.parametrize(("encoding", "full", "rest"), [("utf-8", "\u2588", "\u2591"), ("ascii", "#", ".")])
def test_bars_on_a_terminal(encoding: str, full: str, rest: str) -> None:
    lines = printed(encoding, terminal=True).splitlines()
    for line, length in zip(lines[-4:-1], (0, 5, 10), strict=True):
        assert line.rstrip().endswith(full * length + rest * (10 - length))
    assert lines[-1].rstrip().endswith("-")


def test_no_bars_in_a_pipe() -> None:
    assert "\u2588" not in printed("utf-8", terminal=False)
