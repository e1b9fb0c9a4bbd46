"""Pages over inputs, of models that say odd things of themselves, and with data that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import write_pair
from tests.command_line import Cli

RUN = ("run", "a.onnx", "b.onnx", "--method", "rebasin", "-o", "m.onnx", "-q")


def files(folder: Path) -> None:
    write_pair(folder)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))


def command(*arguments: str) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        files(folder)
        return arguments

    return build


def metadata(key: str, value: str, *arguments: str) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        files(folder)
        model = onnx.load(folder / "a.onnx")
        model.metadata_props.add(key=key, value=value)
        onnx.save(model, folder / "m.onnx")
        return ("report", "m.onnx", "-o", "m.html", *arguments)

    return build


def merged(*arguments: str) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        from onnxmerge import merge

        files(folder)
        merge([folder / "a.onnx", folder / "b.onnx"], method="rebasin").save(folder / "m.onnx")
        return ("report", "m.onnx", "-o", "m.html", *arguments)

    return build


PARENTS = ("--parents", "a.onnx", "--parents", "b.onnx")


@attacks(
    Attack("page over a model", command(*RUN, "--report", "b.onnx"), 2, ("--report b.onnx is one of the models",)),
    Attack("page over the merge", command(*RUN, "--report", "m.onnx"), 2, ("are one file",)),
    Attack("page in no folder", command(*RUN, "--report", "no/m.html"), 1, ("its folder does not exist",)),
    Attack("labels of nothing", merged(*PARENTS, "--labels", "x.npy"), 2, ("give the data too (--calib)",)),
    Attack("tasks without parents", merged("--task", "low=0-1"), 2, ("name them (--parents",)),
    Attack("card of a plan", command(*RUN, "--card", "m.md", "--dry-run"), 2, ("--dry-run makes none",)),
    Attack("page of a plan", command(*RUN, "--report", "m.html", "--dry-run"), 2, ("--dry-run makes none",)),
    Attack("page and merge", command(*RUN, "--report", "m.html"), 0, (), ("m.onnx", "m.html")),
    Attack("page over its model", command("report", "a.onnx", "-o", "a.onnx"), 2, ("is the model itself",)),
    Attack("page of no model", command("report", "x.npy", "-o", "x.html"), 1, ("x.npy",)),
    Attack("page of a model alone", command("report", "a.onnx", "-o", "a.html"), 0, (), ("a.html",)),
    Attack("data without parents", command("report", "a.onnx", "-o", "a.html", "--calib", "x.npy"), 2, ("--parents",)),
    Attack("recipe that is no JSON", metadata("onnxmerge.recipe", "{"), 0, (), ("m.html",)),
    Attack("recipe that is nested", metadata("onnxmerge.recipe", "[" * 100_000), 0, (), ("m.html",)),
    Attack("recipe that is a list", metadata("onnxmerge.recipe", "[]", *PARENTS), 0, ("cannot be read",), ("m.html",)),
    Attack("no recipe", metadata("other", "1", *PARENTS), 0, ("says nothing of how it was made",), ("m.html",)),
    Attack("a parent that is missing", merged("--parents", "a.onnx"), 0, ("which is not given",), ("m.html",)),
    Attack("losses without parents", merged("--landscape", "--calib", "x.npy"), 2, ("name them (--parents",)),
    Attack("losses on no data", merged(*PARENTS, "--landscape"), 2, ("give the data too (--calib)",)),
    Attack("a plane of one", merged(*PARENTS[:2], "--landscape", "--calib", "x.npy"), 2, ("and 1 are given",)),
    Attack("losses around it", merged(*PARENTS, "--landscape", "--calib", "x.npy"), 0, (), ("m.html",)),
    Attack("a merge and its parents", merged(*PARENTS), 0, (), ("m.html",)),
)
def test_reports(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_a_merge_with_its_parents_is_shown_as_it_came_about(tmp_path: Path, cli: Cli) -> None:
    assert cli(*merged(*PARENTS)(tmp_path)).returncode == 0
    page = (tmp_path / "m.html").read_text()
    assert "What was done to the weights" in page
    assert "What check says" in page
    assert "What the file says of itself" in page
