"""Work folders that are something else, or were kept for another merge."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxmerge.errors import InputError
from onnxmerge.pipeline.store import MARK, WorkFolder
from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import RUN, write_pair
from tests.command_line import Cli

WORK = ("--work-dir", "w")


def _file(folder: Path) -> list[str]:
    write_pair(folder)
    (folder / "w").touch()
    return [*RUN, *WORK]


def _of_others(folder: Path) -> list[str]:
    write_pair(folder)
    (folder / "w").mkdir()
    (folder / "w" / "thesis.tex").touch()
    return [*RUN, *WORK]


def _nowhere(folder: Path) -> list[str]:
    write_pair(folder)
    return [*RUN, "--work-dir", "no/w"]


def _no_name(folder: Path) -> list[str]:
    write_pair(folder)
    return [*RUN, "--work-dir", ""]


def _no_folder(folder: Path) -> list[str]:
    write_pair(folder)
    return [*RUN, "--resume"]


def _dry(folder: Path) -> list[str]:
    write_pair(folder)
    return [*RUN, *WORK, "--dry-run"]


def _link(folder: Path) -> list[str]:
    write_pair(folder)
    (folder / "w").symlink_to("nowhere")
    return [*RUN, *WORK]


def _output(folder: Path) -> list[str]:
    write_pair(folder)
    return [*RUN, "--json", "r.json", "--work-dir", "./x/../r.json"]


@attacks(
    Attack("file", _file, exit_code=2, says=("'w' is a file; name a folder",)),
    Attack("of others", _of_others, says=("w: is no work folder, for it holds thesis.tex", "name a new or an empty")),
    Attack("nowhere", _nowhere, says=("no/w: its folder does not exist",)),
    Attack("no name", _no_name, exit_code=2, says=("'' is no path",)),
    Attack("no folder", _no_folder, exit_code=2, says=("name the folder (--work-dir)",)),
    Attack("link", _link, says=("w: is a link that leads nowhere",)),
    Attack("output", _output, exit_code=2, says=("r.json is to be written as a file too",)),
    Attack("dry", _dry, exit_code=2, says=("--work-dir", "--dry-run makes none")),
)
def test_held(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@pytest.mark.parametrize("names", [["c.onnx", "b.onnx"], ["b.onnx", "a.onnx"]])
def test_what_was_kept_for_other_models_is_not_resumed(names: list[str], tmp_path: Path, cli: Cli) -> None:
    write_pair(tmp_path)
    (tmp_path / "c.onnx").write_bytes((tmp_path / "a.onnx").read_bytes() + b"\x12\0")  # an empty name of the producer
    assert cli(*RUN, *WORK, "--resume").returncode == 0
    assert cli(*RUN, *WORK, "--resume").returncode == 0
    ended = cli("run", *names, "-o", "n.onnx", *WORK, "--resume")
    assert (ended.returncode, (tmp_path / "n.onnx").exists()) == (2, False)
    assert "was kept for another merge (other models)" in ended.stderr
    assert cli("run", *names, "-o", "n.onnx", *WORK).returncode == 0


def test_who_resumes_what_never_began_is_told(tmp_path: Path, cli: Cli) -> None:
    write_pair(tmp_path)
    (tmp_path / "w").mkdir()
    run = [each for each in RUN if each != "-q"]
    assert "w keeps nothing yet: beginning from the start" in cli(*run, *WORK, "--resume").stderr
    assert "beginning" not in cli(*run, *WORK, "--resume").stderr


@pytest.mark.parametrize("spoilt", [os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["pipe", "link"])
def test_what_is_no_file_is_not_read(spoilt: Callable[[Path], object], tmp_path: Path, cli: Cli) -> None:
    write_pair(tmp_path)
    assert cli(*RUN, *WORK).returncode == 0
    for path in (tmp_path / "w").iterdir():
        if path.name != MARK:
            path.unlink()
            spoilt(path)
    assert cli(*RUN, *WORK, "--resume").returncode == 0


def test_a_folder_without_room_stops_no_run(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path)

    def full(*_arguments: object) -> None:
        raise InputError("w: cannot be written: no space left on device")

    monkeypatch.setattr(WorkFolder, "write", full)
    assert cli(*RUN, *WORK).returncode == 0
