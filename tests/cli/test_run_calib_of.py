"""``run --calib-of``: data of each model's own, as a user gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmerge import merge
from onnxmerge.cli.main import commands
from onnxmerge.errors import OnnxmergeError, UsageError
from onnxmerge.recipes.file import read_recipe
from tests.attacks.pair import write_pair


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.onnx and b.onnx with a.npz and b.npz in the current folder, of other sizes."""
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    rows = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)
    for name, part in (("a", rows[:90]), ("b", rows[90:])):
        np.savez(f"{name}.npz", x=part)
    return tmp_path


OWN = ("--calib-of", "a.onnx=a.npz", "--calib-of", "b.onnx=b.npz")


def metadata(path: Path) -> dict[str, str]:
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


@pytest.mark.parametrize("refine", ["regmean", "regmean++", "featcal", "ls"])
def test_each_model_has_data_of_its_own(pair: Path, refine: str) -> None:
    given = ("a.onnx", "b.onnx", "--method", "average", "--refine", refine, "-o")
    run(*given, "m.onnx", *OWN, "--save-recipe", "r.yaml", "--json", "r.json")
    first = (pair / "m.onnx").read_bytes()
    assert json.loads(metadata(pair / "m.onnx")["onnxmerge.recipe"])["calibration_of"]
    run(*given, "same.onnx", *OWN[2:], *OWN[:2])  # in any order
    assert (pair / "same.onnx").read_bytes() == first
    run("r.yaml", "-o", "again.onnx")
    assert (pair / "again.onnx").read_bytes() == first
    run(*given, "swapped.onnx", "--calib-of", "a.onnx=b.npz", "--calib-of", "b.onnx=a.npz")
    assert (pair / "swapped.onnx").read_bytes() != first


@pytest.mark.usefixtures("pair")
def test_a_recipe_says_whose_data_it_is(pair: Path) -> None:
    (pair / "r.yaml").write_text(
        "models: [a.onnx, b.onnx]\ncalibration: {data: a.npz, of: {b.onnx: b.npz, a.onnx: a.npz}}\nmethod: average\n"
    )
    found = read_recipe(pair / "r.yaml").calibration
    assert found is not None
    assert found.data == str(pair / "a.npz")
    assert [*found.of.items()] == [(str(pair / name), str(pair / f"{name[0]}.npz")) for name in ("a.onnx", "b.onnx")]
    run("r.yaml", "--refine", "regmean++", "-o", "m.onnx")
    merged = merge(
        ["a.onnx", "b.onnx"],
        calibration="a.npz",
        calibration_of=["a.npz", "b.npz"],
        method="average",
        refine="regmean++",
    )
    assert (pair / "m.onnx").read_bytes() == merged.save(pair / "api.onnx").read_bytes()


@pytest.mark.usefixtures("pair")
def test_samples_are_of_each(pair: Path) -> None:
    given = ("a.onnx", "b.onnx", "--method", "average", "--refine", "regmean")
    run(*given, *OWN, "--samples", "50", "-o", "m.onnx")
    for name in "ab":
        np.savez(f"{name}50.npz", x=np.load(f"{name}.npz")["x"][:50])
    run(*given, "--calib-of", "a.onnx=a50.npz", "--calib-of", "b.onnx=b50.npz", "-o", "n.onnx")
    one, other = (onnx.load(pair / name) for name in ("m.onnx", "n.onnx"))
    assert [each.raw_data for each in one.graph.initializer] == [each.raw_data for each in other.graph.initializer]


@pytest.mark.usefixtures("pair")
def test_a_work_folder_tells_data_of_one_s_own_apart(pair: Path) -> None:
    given = ("a.onnx", "b.onnx", "--method", "average", "--refine", "regmean++", "--work-dir", "work", "-o", "m.onnx")
    run(*given, *OWN)
    first = (pair / "m.onnx").read_bytes()
    assert "used again: 0" not in run(*given, *OWN, "--resume").output
    assert (pair / "m.onnx").read_bytes() == first
    with pytest.raises(UsageError, match="other calibration_of"):
        run(*given, "--calib-of", "a.onnx=b.npz", "--calib-of", "b.onnx=a.npz", "--resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calib-of", "c.onnx=a.npz"], r"--calib-of c\.onnx: is none of the models; they are a\.onnx, b\.onnx"),
        (["--calib-of", "a.onnx=a.npz"], r"--calib-of: b\.onnx has no data of its own"),
        ([*OWN, "--calib-of", "a.onnx=b.npz"], r"--calib-of a\.onnx: has data twice"),
        (["--calib", "a.npz", "--refine", "regmean++"], r"--refine regmean\+\+ measures each model on data of its own"),
        ([*OWN, "--labels", "a.npz", "--method", "auto"], r"--labels are of the samples of --calib"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OnnxmergeError, match=message):
        run("a.onnx", "b.onnx", *arguments, "-o", "m.onnx")
    assert not Path("m.onnx").exists()


@pytest.mark.usefixtures("pair")
def test_models_of_one_name_are_told_apart_by_their_paths(pair: Path) -> None:
    (pair / "other").mkdir()
    shutil.copy("b.onnx", "other/a.onnx")
    given = ("a.onnx", "other/a.onnx", "--method", "average", "--refine", "regmean++", "-o", "m.onnx")
    run(*given, "--calib-of", "a.onnx=a.npz", "--calib-of", "other/a.onnx=b.npz")
    with pytest.raises(UsageError, match="several models are called so"):
        run("./a.onnx", *given[1:], "--calib-of", "a.onnx=a.npz")
