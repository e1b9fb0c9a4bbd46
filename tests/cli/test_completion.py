"""What a shell completes: commands, options, choices, and files where an argument is one."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from onnxmerge.cli.main import commands


@pytest.mark.parametrize(
    ("words", "typed", "found"),
    [
        ([], "la", {"landscape": "plain"}),
        (["run"], "--work-", {"--work-dir": "plain"}),
        (["run", "--method"], "c2", {"c2m3": "plain"}),
        (["run", "--width"], "a", {"auto": "plain"}),
        (["run", "--smallest-in"], "f", {"flops": "plain"}),
        (["run"], "a.on", {"a.on": "file"}),
        (["run", "a.onnx", "b.onnx", "--calib"], "da", {"da": "file"}),
        (["run", "a.onnx", "b.onnx", "-o"], "m", {"m": "file"}),
        (["run", "a.onnx", "b.onnx", "--work-dir"], "w", {"w": "dir"}),
    ],
)
def test_completion(words: list[str], typed: str, found: dict[str, str]) -> None:
    shell = ShellComplete(commands, {}, "onnxmerge", "_ONNXMERGE_COMPLETE")
    assert {item.value: item.type for item in shell.get_completions(words, typed)} == found
