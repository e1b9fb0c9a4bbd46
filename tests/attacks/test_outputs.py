"""Outputs that are inputs under another name, that cannot be written, or that only half appear."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx
import pytest

import onnxmerge.api
from onnxmerge.cli.commands import COMMANDS
from onnxmerge.cli.files import InputFile, OutputFile
from onnxmerge.cli.main import commands
from onnxmerge.model import write as write_module
from onnxmerge.model.publication import PREFIX
from onnxmerge.model.scratch import LOCK
from onnxmerge.pipeline import beginning
from onnxmerge.pipeline.prepare import Prepared
from onnxmerge.validation.certificate import Certificate
from tests.attacks.attack import Attack, attacks, contents
from tests.command_line import Cli
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
EVAL = ["eval", "a.onnx", "--data", "x.npy", "--labels", "y.npy"]
AVERAGE = ["run", "a.onnx", "b.onnx", "--method", "average"]


def pair(folder: Path) -> None:
    """Two models, of which b keeps its weights in a file beside it, and data that they run on."""
    for index, name in enumerate("ab"):
        model = build(MLP, normal(w1=(6, 5), w2=(5, 3), seed=index))
        onnx.save(model, folder / f"{name}.onnx", save_as_external_data=name == "b", location="b.bin", size_threshold=0)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))
    np.save(folder / "y.npy", np.zeros(64, np.int64))


def link(folder: Path) -> None:
    (folder / "link.onnx").symlink_to("a.onnx")


def hard_link(folder: Path) -> None:
    (folder / "link.onnx").hardlink_to(folder / "a.onnx")


def hard_link_to_data(folder: Path) -> None:
    (folder / "link.onnx").hardlink_to(folder / "b.bin")


def subfolder(folder: Path) -> None:
    (folder / "sub").mkdir()


def linked_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "there").symlink_to("sub")
    (folder / "sub" / "a.onnx").hardlink_to(folder / "a.onnx")


def data_folder(folder: Path) -> None:
    (folder / "data").mkdir()
    shutil.move(folder / "x.npy", folder / "data" / "x.npy")
    (folder / "link.json").symlink_to("data/x.npy")


def script(folder: Path) -> None:
    (folder / "s.py").write_text("import numpy\ndef f():\n    return [numpy.zeros((2, 6), numpy.float32)]\n")


def texts(folder: Path) -> None:
    (folder / "tasks.json").write_text('{"tasks": [{"name": "t"}]}')
    (folder / "ops.yaml").write_text("my.domain: {}\n")
    np.save(folder / "v.npy", np.eye(3, dtype=np.float32))
    (folder / "r.yaml").write_text("models: [a.onnx, b.onnx]\nmethod: average\noutput: m.onnx\n")
    (folder / "bad.yaml").write_text("models: [a.onnx, b.onnx]\nmethod: average\noutput: sub/../b.onnx\n")


LISTS = ("--vocab", "t.txt", "--vocab", "u.vocab.txt")


def token_lists(folder: Path) -> None:
    """Token lists, of which one lies where that of an output goes."""
    for name in LISTS[1::2]:
        (folder / name).write_text("a\nb\n")
    (folder / "v.yaml").write_text(
        "models: [a.onnx, b.onnx]\nvocab: [t.txt, u.vocab.txt]\nmethod: average\noutput: u.onnx\n"
    )


def data_beside(folder: Path) -> None:
    """An input that lies where a large output's data would."""
    shutil.copy(folder / "x.npy", folder / "m.onnx.data")
    shutil.copy(folder / "x.npy", folder / "x.onnx.data")
    (folder / "data").mkdir()
    (folder / "data" / "link.npy").symlink_to("../x.onnx.data")


def graph(folder: Path) -> None:
    (folder / "a.dot").symlink_to("a.onnx")


Prepare = Callable[[Path], object]


def nothing(_folder: Path) -> None:
    """The pair is enough."""


def refused(name: str, *arguments: str, says: str = "choose another name", also: Prepare = nothing) -> Attack:
    """A command that would write over what it reads, or over its own output."""

    def written(folder: Path) -> list[str]:
        pair(folder)
        also(folder)
        return list(arguments)

    return Attack(name, written, exit_code=2, says=(says,))


COLLISIONS = (
    refused("model", *AVERAGE, "-o", "a.onnx", says="-o a.onnx is one of the models"),
    refused("dotted", *AVERAGE, "-o", "./a.onnx"),
    refused("over a folder", *AVERAGE, "-o", "sub/../a.onnx", also=subfolder),
    refused("over a linked folder", *AVERAGE, "-o", "there/a.onnx", also=linked_folder),
    refused("over a link's parent", *AVERAGE, "-o", "there/../b.onnx", also=linked_folder),
    refused("link", *AVERAGE, "-o", "link.onnx", also=link),
    refused("hard link", *AVERAGE, "-o", "link.onnx", also=hard_link),
    refused("model is a link", "run", "link.onnx", "b.onnx", "--method", "average", "-o", "a.onnx", also=link),
    refused("data file", *AVERAGE, "-o", "b.bin", says="data file of one of the models"),
    refused("data file by a hard link", *AVERAGE, "-o", "link.onnx", also=hard_link_to_data),
    refused("json on model", *AVERAGE, "-o", "m.onnx", "--json", "a.onnx", says="--json a.onnx is one of"),
    refused("recipe on model", *AVERAGE, "-o", "m.onnx", "--save-recipe", "b.onnx"),
    refused("dry run", *AVERAGE, "--dry-run", "--json", "a.onnx"),
    refused("calibration", *AVERAGE, "--calib", "x.npy", "-o", "x.npy", says="is the calibration data"),
    refused("in a folder", *AVERAGE, "--calib", "data", "-o", "data/x.npy", also=data_folder),
    refused("link into a folder", *AVERAGE, "--calib", "data", "-o", "m", "--json", "link.json", also=data_folder),
    refused("script", *AVERAGE, "--calib", "s.py:f", "-o", "s.py", also=script),
    refused("labels", *AVERAGE, "--calib", "x.npy", "--labels", "y.npy", "-o", "m.onnx", "--json", "y.npy"),
    refused("tasks", *AVERAGE, "--tasks", "tasks.json", "-o", "m", "--json", "tasks.json", also=texts),
    refused("vectors", *AVERAGE, "--vectors", "v.npy", "-o", "v.npy", also=texts),
    refused("operators", *AVERAGE, "--operators", "ops.yaml", "-o", "m", "--save-recipe", "ops.yaml", also=texts),
    refused("base", "run", "a.onnx", "b.onnx", "--method", "ties", "--base", "link.onnx", "-o", "a.onnx", also=link),
    refused("recipe itself", "run", "r.yaml", "--save-recipe", "r.yaml", also=texts),
    refused("recipe's output", "run", "bad.yaml", says="output: ", also=texts),
    refused("recipe's model", "run", "r.yaml", "-o", "b.onnx", also=texts),
    refused(
        "data beside", *AVERAGE, "--calib", "data", "-o", "x.onnx", says="its data in x.onnx.data", also=data_beside
    ),
    refused("token list", *AVERAGE, *LISTS, "-o", "t.txt", says="is one of the token lists", also=token_lists),
    refused("merged tokens", *AVERAGE, *LISTS, "-o", "u.onnx", says="u.vocab.txt is one of", also=token_lists),
    refused("tokens and json", *AVERAGE, *LISTS, "-o", "m", "--json", "m.vocab.txt", says="one file", also=token_lists),
    refused("a recipe's tokens", "run", "v.yaml", says="u.vocab.txt is one of the token lists", also=token_lists),
    refused("two outputs", *AVERAGE, "-o", "m.onnx", "--json", "./m.onnx", says="are one file"),
    refused("two outputs by case", *AVERAGE, "-o", "m.onnx", "--json", "M.onnx", says="are one file"),
    refused("json and recipe", *AVERAGE, "-o", "m", "--json", "n", "--save-recipe", "sub/../n", also=subfolder),
    refused("json on data", *AVERAGE, "-o", "m.onnx", "--json", "m.onnx.data", says="are one file"),
    refused("a folder's name", *AVERAGE, "-o", "new/", says="is the name of a folder"),
    refused("two on stdout", *AVERAGE, "-o", "m", "--json", "-", "--save-recipe", "-", says="standard output"),
    refused("model on stdout", *AVERAGE, "-o", "-", says="name a file"),
    refused("no name", *AVERAGE, "-o", "", says="is no path"),
    refused("permute", "permute", "a.onnx", "-o", "link.onnx", also=link),
    refused("permute by value", "permute", "a.onnx", "--input", "x:x.npy", "-o", "x.npy"),
    refused("graph", "inspect", "a.onnx", "--graph", "a.dot", also=graph),
    refused("graph's ending", "inspect", "a.onnx", "--graph", "a.png", says=".dot or .svg"),
    refused("eval on data", *EVAL, "--json", "x.npy"),
    refused("eval on labels", *EVAL, "--json", "y.npy"),
    refused("eval on parent", *EVAL, "--parents", "a.onnx,b.onnx", "--json", "b.bin"),
)


@pytest.mark.usefixtures("no_work")
@attacks(*COLLISIONS)
def test_an_output_is_no_input(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be found out before the work is found out without it."""

    def work(*_args: object, **_settings: object) -> None:
        pytest.fail("the work has begun")

    monkeypatch.setattr("onnxmerge.cli.run.merge", work)
    monkeypatch.setattr("onnxmerge.cli.run.plan", work)
    for name in ("permute", "inspect", "evaluate"):
        monkeypatch.setattr(onnxmerge.api, name, work)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "m.onnx")


def directory(folder: Path) -> None:
    (folder / "m.onnx").mkdir()


def protected(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"precious")
    (folder / "m.onnx").chmod(0o444)


def link_to_device(folder: Path) -> None:
    (folder / "m.onnx").symlink_to("/dev/null")


def recipe_of_nul(folder: Path) -> None:
    (folder / "r.yaml").write_text('models: [a.onnx, b.onnx]\nmethod: average\noutput: "m\\0.onnx"\n')


def recipe_of_nul_models(folder: Path) -> None:
    (folder / "r.yaml").write_text('models: ["a\\0.onnx", b.onnx]\nmethod: average\noutput: m.onnx\n')


def tokens_folder(folder: Path) -> None:
    token_lists(folder)
    (folder / "m.vocab.txt").mkdir()


def unwritable(name: str, *arguments: str, says: str, also: Prepare = nothing) -> Attack:
    """A command whose output cannot be written where it is to go."""

    def written(folder: Path) -> list[str]:
        pair(folder)
        also(folder)
        return list(arguments)

    return Attack(name, written, says=(says,))


@pytest.mark.usefixtures("no_work")
@attacks(
    unwritable("no folder", *AVERAGE, "-o", "no/m.onnx", says="its folder does not exist"),
    unwritable("file as folder", *AVERAGE, "-o", "a.onnx/m.onnx", says="its folder does not exist"),
    unwritable("no folder for json", *AVERAGE, "-o", "m.onnx", "--json", "no/r.json", says="no/r.json"),
    unwritable("no folder for recipe", *AVERAGE, "-o", "m.onnx", "--save-recipe", "no/r.yaml", says="no/r.yaml"),
    unwritable("no folder for graph", "inspect", "a.onnx", "--graph", "no/g.dot", says="its folder does not exist"),
    unwritable("no folder for scores", *EVAL, "--json", "no/s", says="no/s"),
    unwritable("directory", *AVERAGE, "-o", "m.onnx", says="is a directory", also=directory),
    unwritable("directory for json", *AVERAGE, "-o", "m", "--json", "m.onnx", says="is a directory", also=directory),
    unwritable("device", *AVERAGE, "-o", "/dev/null", says="only files are replaced"),
    unwritable("link to a device", *AVERAGE, "-o", "m.onnx", says="only files are replaced", also=link_to_device),
    unwritable("standard output", *AVERAGE, "-o", "m", "--json", "/dev/stdout", says="only files are replaced"),
    unwritable("pipe", "permute", "a.onnx", "-o", "m.onnx", says="only files are replaced", also=pipe),
    unwritable("protected", *AVERAGE, "-o", "m.onnx", says="protected from writing", also=protected),
    unwritable("long name", *AVERAGE, "-o", "m" * 300, says="File name too long"),
    unwritable(
        "no place for tokens", *AVERAGE, *LISTS, "-o", "m.onnx", says="m.vocab.txt: is a directory", also=tokens_folder
    ),
    unwritable("not UTF-8", *AVERAGE, "-o", "m\udcff.onnx", says="m\\xff.onnx: is not UTF-8"),
    unwritable("long path", *AVERAGE, "-o", "m/" * 3000 + "m.onnx", says="File name too long"),
    unwritable("NUL in a recipe's output", "run", "r.yaml", says="is no path", also=recipe_of_nul),
    unwritable("NUL in a recipe's models", "run", "r.yaml", says="is no path", also=recipe_of_nul_models),
)
def test_what_cannot_be_written_is_said_before_the_work(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("no_work")
def test_a_full_disk_is_said_before_the_work(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(10**9, 10**9 - 100, 100))
    done = cli(*AVERAGE, "-o", "m.onnx")
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "100 bytes free" in done.stderr


def named(name: str, output: str, *, also: Prepare = nothing) -> Attack:
    def written(folder: Path) -> list[str]:
        pair(folder)
        also(folder)
        return [*AVERAGE, "-o", output]

    return Attack(name, written, exit_code=0, says=("wrote",), writes=(output,))


@attacks(
    named("as long as can be", "m" * 255),
    named("as wide as can be", "\U0001f600" * 63),
    named("spaces", " m .onnx "),
    named("line break", "m\n.onnx"),
    named("terminal codes", "m\x1b[31m.onnx"),
    named("dash", "-m.onnx"),
    named("like the lock", LOCK),
)
def test_any_name_will_do(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
    onnx.checker.check_model((tmp_path / attack.writes[0]).read_bytes())


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path, cli: Cli) -> None:
    pair(tmp_path)
    (tmp_path / "kept.onnx").write_bytes(b"precious")
    (tmp_path / "m.onnx").symlink_to("kept.onnx")
    (tmp_path / "n.onnx").symlink_to("nowhere")
    for name in ("m.onnx", "n.onnx"):
        assert cli(*AVERAGE, "-o", name).returncode == 0
        assert not (tmp_path / name).is_symlink()
        onnx.checker.check_model(tmp_path / name)
    assert (tmp_path / "kept.onnx").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_modes_are_those_of_an_ordinary_file(tmp_path: Path, cli: Cli) -> None:
    pair(tmp_path)
    (tmp_path / "old.onnx").touch(mode=0o600)
    before = os.umask(0o027)
    try:
        for name in ("new.onnx", "old.onnx"):
            assert cli(*AVERAGE, "-o", name, "--json", f"{name}.json").returncode == 0
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.onnx*")}
    assert (modes["new.onnx"], modes["new.onnx.json"], modes["old.onnx"]) == (0o640, 0o640, 0o600)


@pytest.mark.parametrize("failing", ["m.onnx", "r.json", "r.yaml"])
def test_all_outputs_appear_or_none(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    pair(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"precious")
    (tmp_path / "r.yaml").symlink_to("a.onnx.none")
    before = contents(tmp_path)
    move = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == tmp_path / failing and self.name == failing:
            raise OSError(errno.EIO, "Input/output error")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    done = cli(*AVERAGE, "-o", "m.onnx", "--json", "r.json", "--save-recipe", "r.yaml")
    assert done.returncode == 1
    assert "Input/output error" in done.stderr
    assert "wrote" not in done.stdout
    assert contents(tmp_path) == before


def test_a_file_system_without_hard_links(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_args: object, **_settings: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_all_outputs_appear_or_none(tmp_path, cli, monkeypatch, "r.json")


def test_json_and_recipes_go_to_standard_output(tmp_path: Path, cli: Cli) -> None:
    pair(tmp_path)
    assert cli(*AVERAGE, "-o", "m.onnx", "--json", "-").stdout.startswith("{\n")
    recipe = cli(*AVERAGE, "-o", "m.onnx", "--save-recipe", "-").stdout
    assert recipe == "models:\n- a.onnx\n- b.onnx\nmethod: average\noutput: m.onnx\n"
    assert not (tmp_path / "-").exists()
    assert cli(*AVERAGE, "-o", "./-").returncode == 0
    assert (tmp_path / "-").is_file()


def test_a_failed_certificate_publishes_nothing(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path)
    certify = Prepared.certify

    def failing(prepared: Prepared, index: int, **settings: Any) -> Certificate:
        return replace(certify(prepared, index, **settings), passed=False, failure="as it should")

    monkeypatch.setattr(Prepared, "certify", failing)
    before = contents(tmp_path)
    done = cli("inspect", "a.onnx", "--certify", "--graph", "g.dot")
    assert done.returncode == 3, done.stderr
    assert contents(tmp_path) == before


def test_the_api_keeps_inputs_too(tmp_path: Path) -> None:
    pair(tmp_path)
    models = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    merged = onnxmerge.merge(models, method="average", calibration=tmp_path / "x.npy")
    permuted = onnxmerge.permute(models[1])
    for result, path in ((merged, "a.onnx"), (merged, "b.bin"), (merged, "x.npy"), (permuted, "b.bin")):
        before = contents(tmp_path)
        with pytest.raises(onnxmerge.UsageError, match="choose another name"):
            result.save(tmp_path / path)
        assert contents(tmp_path) == before
    assert merged.save(tmp_path / "m.onnx").is_file()


PHASES = {
    "reading": (vars(beginning), "read_floats"),
    "matching": (onnxmerge.api.merge.__globals__, "matched_by"),
    "writing": (vars(write_module), "_check"),
}


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_nothing(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, phase: str, name: str, code: int
) -> None:
    pair(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"precious")
    before = contents(tmp_path)
    where, function = PHASES[phase]
    monkeypatch.setitem(where, function, lambda *_args, **_settings: os.kill(os.getpid(), signal.Signals[name]))
    done = cli(*AVERAGE, "-o", "m.onnx", "--json", "r.json")
    said = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert (done.returncode, done.stderr) == (code, f"{said}; nothing was written\n")
    assert contents(tmp_path) == before


@pytest.fixture
def ordinary() -> Iterator[None]:
    """Signals as a terminal's commands have them: a job in the background ignores some."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ordinary")
def test_what_nohup_ignores_stays_ignored(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    check = write_module._check

    def hang_up(path: Path, where: str) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        check(path, where)

    monkeypatch.setattr(write_module, "_check", hang_up)
    assert cli(*AVERAGE, "-o", "m.onnx").returncode == 0


def test_what_a_killed_run_left_is_removed(tmp_path: Path, cli: Cli) -> None:
    pair(tmp_path)
    left = tmp_path / f"{PREFIX}x"
    left.mkdir()
    (left / LOCK).touch()
    (left / "m.onnx").write_bytes(b"half")
    mine = tmp_path / f"{PREFIX}mine"  # no lock in it: it belongs to somebody else
    mine.mkdir()
    assert cli(*AVERAGE, "-o", "m.onnx").returncode == 0
    assert (left.exists(), mine.exists()) == (False, True)


NO_PATHS = {"--task", "--until", "--explain", "--input", "--parents", "--alpha", "--top-k", "--image-size"}
NO_PATHS |= {"--mean", "--std", "--weights", "--max-memory", "--outputs", "--cluster", "--calib-of"}
NO_PATHS |= {"--min-runtime", "--target", "--only", "--skip", "--report"}
"""Options of free text that are no path, or note their paths in a callback of their own (--input, ...)."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_names_a_file_says_so(name: str) -> None:
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    for parameter in command.params:
        kind: Any = parameter.type
        assert not isinstance(kind, (click.Path, click.File)), f"{parameter.name}: InputFile or OutputFile is meant"
        if isinstance(kind, (InputFile, OutputFile)) or NO_PATHS & set(parameter.opts):
            continue
        assert not isinstance(kind, type(click.STRING)), f"{parameter.name}: a path, or one of NO_PATHS?"
