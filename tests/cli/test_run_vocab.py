"""``run --vocab``: language models whose vocabularies differ, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.recipes.file import read_recipe
from tests.command_line import Cli
from tests.graphs import execute
from tests.vocabularies import LENGTH, language_model, some_ids, words
from tools.benchmark import networks
from tools.benchmark.networks import Transformer, decoder

A, B = range(12), [11, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14]
LISTS = ("--vocab", "a.txt", "--vocab", "b.txt")
RUN = ("run", "a.onnx", "b.onnx", *LISTS, "--method", "rebasin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.onnx and b.onnx, the token list of each, and data in the ids of the merged one."""
    for seed, (name, own) in enumerate((("a", A), ("b", B))):
        onnx.save(language_model(len(own), seed), tmp_path / f"{name}.onnx")
        (tmp_path / f"{name}.txt").write_text("".join(f"{token}\n" for token in words(own)))
    np.save(tmp_path / "x.npy", some_ids(14))
    return tmp_path


def test_a_merge_comes_with_its_tokens(folder: Path, cli: Cli) -> None:
    done = cli(*RUN, "--calib", "x.npy", "-o", "m.onnx", "--json", "r.json", "--save-recipe", "r.yaml")
    assert done.returncode == 0, done.stderr
    assert "14 tokens, all that a model has; lacking: " in done.stdout
    assert "m.vocab.txt" in done.stdout
    assert (folder / "m.vocab.txt").read_text().split() == words([*A, 13, 14])
    model = onnx.load(folder / "m.onnx")
    assert execute(model, {"ids": np.full((2, LENGTH), 13)})["logits"].shape == (2, LENGTH, 14)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    told = json.loads((folder / "r.json").read_text())
    digest = told["vocabulary"]["sha256"]
    assert metadata["onnxmerge.vocabulary"] == f"14 {digest} union"
    assert json.loads(metadata["onnxmerge.recipe"])["vocabulary"]["tokens"] == digest
    assert told["tokens"] == str(folder / "m.vocab.txt")
    assert read_recipe(folder / "r.yaml").vocab == (str(folder / "a.txt"), str(folder / "b.txt"))
    before = (folder / "m.onnx").read_bytes(), (folder / "m.vocab.txt").read_bytes()
    assert cli("run", "r.yaml").returncode == 0
    assert ((folder / "m.onnx").read_bytes(), (folder / "m.vocab.txt").read_bytes()) == before
    checked = cli("check", "m.onnx", "--against", "a.onnx", "--against", "b.onnx")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_tokens_of_the_first_model_alone_and_json(folder: Path, cli: Cli) -> None:
    ids = {token: place for place, token in enumerate(words(A[:-1]))}
    ids["\n"] = 11
    (folder / "a.json").write_text(json.dumps({"model": {"vocab": ids}}))
    given = ("run", "a.onnx", "b.onnx", "--vocab", "a.json", "--vocab", "b.txt", "--method", "average")
    assert cli(*given, "--merged-vocab", "first", "-o", "m.onnx").returncode == 0
    assert json.loads((folder / "m.vocab.json").read_text()) == ids
    assert not (folder / "m.vocab.txt").exists()
    turned = ("run", "b.onnx", "a.onnx", "--vocab", "b.txt", "--vocab", "a.json", "--method", "average")
    refused = cli(*turned, "-o", "n.onnx")
    assert refused.returncode == 1
    assert "holds a line break" in refused.stderr


def test_plans_say_which_tokens(folder: Path, cli: Cli) -> None:
    done = cli(*RUN, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "14 tokens" in done.stdout
    forecast = cli("plan", "a.onnx", "b.onnx", *LISTS, "--merged-vocab", "first", "--calib", "y.npy")
    assert forecast.returncode == 1
    np.save(folder / "y.npy", some_ids(12))
    forecast = cli("plan", "a.onnx", "b.onnx", *LISTS, "--merged-vocab", "first", "--calib", "y.npy")
    assert "12 tokens, those of the first model" in forecast.stdout
    assert not list(folder.glob("*.vocab.*"))


def test_a_merge_goes_on_from_a_work_folder(folder: Path, cli: Cli) -> None:
    given = (*RUN, "--calib", "x.npy", "--work-dir", "w", "-o")
    assert cli(*given, "m.onnx").returncode == 0
    assert cli(*given, "n.onnx", "--resume").returncode == 0
    assert (folder / "m.onnx").read_bytes() == (folder / "n.onnx").read_bytes()
    (folder / "b.txt").write_text("".join(f"{token}\n" for token in words([*B[:-1], 30])))
    other = cli(*given, "o.onnx", "--resume")
    assert other.returncode == 2
    assert "vocabulary" in other.stderr


def test_a_decoder_as_exporters_write_it(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm, rotary positions, SwiGLU; the second model is the first with units and tokens in another order."""
    monkeypatch.setattr(networks, "LENGTH", 6)
    decoder(tmp_path / "a.onnx", 0, Transformer(width=8, hidden=20, heads=2, blocks=1, words=24))
    model = onnx.load(tmp_path / "a.onnx")
    order = np.random.default_rng(0).permutation(24)
    for item in model.graph.initializer:
        array = onnx.numpy_helper.to_array(item)
        if 24 in array.shape:
            item.CopyFrom(onnx.numpy_helper.from_array(array.take(order, array.shape.index(24)), item.name))
    onnx.save(model, tmp_path / "b.onnx")
    assert cli("permute", "b.onnx", "-o", "c.onnx").returncode == 0
    for name, ids in (("a", range(24)), ("c", order)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{token}\n" for token in words([*ids])))
    done = cli("run", "a.onnx", "c.onnx", "--vocab", "a.txt", "--vocab", "c.txt", "--method", "rebasin", "-o", "m.onnx")
    assert done.returncode == 0, done.stderr
    ids = np.random.default_rng(1).integers(0, 24, (3, 6))
    expected, found = (execute(onnx.load(tmp_path / f"{name}.onnx"), {"ids": ids}) for name in "am")
    for name, array in expected.items():
        assert np.array_equal(array, found[name])
