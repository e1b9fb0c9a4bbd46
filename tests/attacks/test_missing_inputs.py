"""Models that are not there, or are no models at all."""

from __future__ import annotations

from pathlib import Path

from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli


def _nothing(_folder: Path) -> list[str]:
    return ["inspect", "no.onnx"]


def _directory(folder: Path) -> list[str]:
    (folder / "a.onnx").mkdir()
    return ["inspect", "a.onnx"]


def _empty(folder: Path) -> list[str]:
    (folder / "a.onnx").touch()
    return ["inspect", "a.onnx"]


@attacks(
    Attack("missing", _nothing, says=("no.onnx", "does not exist")),
    Attack("directory", _directory, says=("a.onnx", "is a directory")),
    Attack("empty", _empty, says=("a.onnx", "is empty"), apart=True),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
