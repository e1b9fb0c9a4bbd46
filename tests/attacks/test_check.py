"""Hostile and careless files that `check` and `compare` are given beside the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.attack import Attack, attacks
from tests.checking.broken import merged, mlp, saved, with_entry
from tests.command_line import Cli

DEEP = "[" * 100_000


def beside(option: str, content: str | None, name: str = "f.json") -> Callable[[Path], Sequence[object]]:
    """A good model, and an option with a file of this content (None: there is none)."""

    def build(folder: Path) -> Sequence[object]:
        if content is not None:
            (folder / name).write_text(content)
        return ["check", saved(mlp(), folder), option, name]

    return build


def words(*given: object) -> Callable[[Path], Sequence[object]]:
    return lambda folder: ["check", saved(mlp(), folder), *given]


def configured(text: str, *options: object) -> Callable[[Path], Sequence[object]]:
    """A good model m.onnx and its parent a.onnx, and onnxmerge.toml."""

    def build(folder: Path) -> Sequence[object]:
        saved(mlp(), folder)
        saved(mlp(), folder, "a.onnx")
        (folder / "onnxmerge.toml").write_text(f"[[check]]\n{text}\n")
        return ["check", *options]

    return build


def linked(text: str, name: str, leads_to: str, *options: object) -> Callable[[Path], Sequence[object]]:
    """A configuration in a folder of its own, in which ``name`` is a link to what lies beside that folder, or in it."""

    def build(folder: Path) -> Sequence[object]:
        saved(mlp(), folder)
        (own := folder / "own").mkdir()
        (own / "data").mkdir()
        saved(mlp(), own, "good.onnx")
        np.save(folder / "x.npy", np.zeros((4, 4), np.float32))
        np.save(own / "data" / "x.npy", np.zeros((4, 4), np.float32))
        (own / "onnxmerge.toml").write_text(f"[[check]]\n{text}\n")
        (own / name).symlink_to(leads_to)
        return ["check", "--config", "own/onnxmerge.toml", *options]

    return build


def scripted(*options: object) -> Callable[[Path], Sequence[object]]:
    """A configuration whose data is a script that leaves a file behind."""

    def build(folder: Path) -> Sequence[object]:
        (folder / "s.py").write_text(
            "import numpy as np\n\ndef feeds():\n    open('ran', 'w').close()\n"
            "    return [np.ones((2, 4), np.float32)]\n"
        )
        return configured(f'{NAMED}\ndata = "s.py:feeds"', *options)(folder)

    return build


def forged(**changed: object) -> Callable[[Path], Sequence[object]]:
    """A merge whose recipe was changed, to be made again from its parents."""

    def change(text: str) -> str:
        return json.dumps({**json.loads(text), **changed})

    return lambda folder: ["check", *merged(with_entry("onnxmerge.recipe", change), "--reproduce")(folder)]


UNREAD = ("provenance.reproduce", "the recipe in the model's metadata cannot be read")
FORGED: dict[str, dict[str, object]] = {
    "a number in words": {"seed": "x"},
    "a method that is a table": {"method": {}},
    "weights in words": {"weights": ["a", "b"]},
    "a share in words": {"share": "x"},
    "a list for a number": {"width": [1]},
    "a number for names": {"until": 5},
}


@pytest.mark.parametrize("changed", FORGED.values(), ids=FORGED)
def test_forged_recipes(changed: dict[str, object], tmp_path: Path, cli: Cli) -> None:
    ended = cli(*forged(**changed)(tmp_path), "--format", "github")
    assert ended.returncode == 3
    assert all(part in ended.stdout for part in UNREAD), ended.stdout
    assert "a bug" not in ended.stdout


NAMED = 'models = ["m.onnx"]'
GOOD = 'models = ["good.onnx"]'


@attacks(
    Attack("no model", lambda _: ["check", "m.onnx"], 1, ("does not exist",)),
    Attack("no ONNX", lambda folder: ["check", _text(folder)], 1, ("is not an ONNX model",)),
    Attack("no schema", beside("--schema", None), 1, ("no such file",)),
    Attack("a schema that is no JSON", beside("--schema", "{"), 1, ("is not JSON",)),
    Attack("a deep schema", beside("--schema", DEEP), 1),
    Attack("an empty schema", beside("--schema", "{}"), 1, ("says nothing",)),
    Attack("a schema with a size below 1", beside("--schema", '{"inputs": {"x": {"shape": [0]}}}'), 1, ("inputs.x",)),
    Attack("a schema with a huge number", beside("--schema", f'{{"inputs": {{"x": {{"shape": [{"9" * 5000}]}}}}}}'), 1),
    Attack("a deep baseline", beside("--baseline", DEEP), 1, ("is no baseline",)),
    Attack("no parent", beside("--against", None, "a.onnx"), 1, ("does not exist",)),
    Attack("a parent that is no model", beside("--against", "x", "a.onnx"), 1, ("is not an ONNX model",)),
    Attack("no data", beside("--calib", None, "x.npy"), 1, ("no such file",)),
    Attack("labels without data", beside("--labels", "1", "y.csv"), 2, ("--calib",)),
    Attack("class vectors without labels", beside("--vectors", "1", "v.npy"), 2, ("--labels",)),
    Attack("operators that nobody asks for", beside("--operators", "{}", "o.yaml"), 2, ("--certify",)),
    Attack("an ensemble's drop without parents", words("--max-ensemble-drop", 1), 2, ("--against",)),
    Attack("a drop without labels", words("--against", "m.onnx", "--max-drop", 1), 2, ("--labels",)),
    Attack("a drop that is no number", words("--against", "m.onnx", "--max-drop", "nan"), 2),
    Attack("a bound without a parent", words("--max-error", "1"), 2, ("--against",)),
    Attack("an unknown runtime", words("--min-runtime", "9.9"), 2, ("expected a version from 1.12",)),
    Attack("a runtime that is none", words("--min-runtime", "\x1b[31m"), 2, ("expected a version",)),
    Attack("an unknown target", words("--target", "../operators/fixed"), 2, ("there is no table of it",)),
    Attack("an unknown family", words("--only", "looks"), 2, ("there are no such gates",)),
    Attack("a baseline over the model", words("--save-baseline", "m.onnx"), 2, ("is the model itself",)),
    Attack("two reports in one file", words("--report", "json=r", "--report", "junit=r"), 2, ("are one file",)),
    Attack("a bound whose gate is left out", words("--against", "m.onnx", "--max-error", 1, "--only", "integrity"), 2),
    Attack("a proof that is left out", words("--certify", "--skip", "certificate"), 2, ("--skip leaves out",)),
    Attack("a report over the configuration", configured(NAMED, "--report", "json=onnxmerge.toml"), 2),
    Attack("a report over a configured model", configured(NAMED, "--report", "json=m.onnx"), 2, ("the model itself",)),
    Attack(
        "a report over a configured parent",
        configured(f'{NAMED}\nagainst = ["a.onnx"]', "--report", "json=a.onnx"),
        2,
        ("one of the parents",),
    ),
    Attack("a report over configured data", configured(f'{NAMED}\ndata = "a.onnx"', "--report", "json=a.onnx"), 2),
    Attack("a pattern that is none", configured('models = ["**m"]'), 1, ("is no pattern of files",)),
    Attack("a model that is a link out", linked('models = ["*.onnx"]', "m.onnx", "../m.onnx"), 1, ("by a link to",)),
    Attack("models in a link out", linked('models = ["l/*.onnx"]', "l", ".."), 1, ("own/l/*.onnx", "by a link to")),
    Attack("data that are a link out", linked(f'{GOOD}\ndata = "x.npy"', "x.npy", "../x.npy"), 1, ("by a link to",)),
    Attack("a link out in the data", linked(f'{GOOD}\ndata = "data"', "data/y.npy", "../../x.npy"), 1, ("y.npy",)),
    Attack("a link within", linked('models = ["m.onnx"]', "m.onnx", "good.onnx"), 0),
    Attack("a link in a circle", linked(f'{GOOD}\ndata = "data"', "data/again", "../data"), 0),
    Attack("a script that nobody allowed", scripted(), 2, ("is a script", "--allow-scripts")),
    Attack("a script that is allowed", scripted("--allow-scripts"), 0, writes=("ran",)),
    Attack("a script for a model", words("--allow-scripts"), 2, ("is for configurations",)),
    Attack("a misspelt table", configured(f"{NAMED}\n[[chek]]\nmodels = ['a.onnx']"), 1, ("'chek'", "[[check]]")),
    Attack("compared with what is not there", lambda folder: ["compare", saved(mlp(), folder), "b.onnx"], 1),
)
def test_check(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _text(folder: Path) -> str:
    (folder / "m.onnx").write_text("not a model")
    return "m.onnx"
