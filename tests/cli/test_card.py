"""Model cards, as a user has them written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.command_line import Cli


def parts(card: Path) -> tuple[Mapping[str, Any], str]:
    """The header of a card, and what follows it."""
    _, header, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def test_a_merge_writes_its_card(cli: Cli, digits: Path, tmp_path: Path) -> None:
    merged, card = tmp_path / "m.onnx", tmp_path / "README.md"
    run = ("run", digits / "a.onnx", digits / "b.onnx", "--method", "average", "-q")
    assert cli(*run, "-o", merged, "--card", card)[0] == 0
    header, body = parts(card)
    assert header == {
        "library_name": "onnx",
        "tags": ["onnx", "merge", "onnxmerge"],
        "base_model": ["a.onnx", "b.onnx"],
        "base_model_relation": "merge",
    }
    assert "# m.onnx\n\nA merge of a.onnx and b.onnx" in body
    assert "| input | images | float \\[n, 1, 8, 8\\] |" in body
    assert f"onnxmerge run {digits / 'a.onnx'} {digits / 'b.onnx'} --method average -q -o {merged}" in body


def test_names_of_files_are_text_in_a_card(cli: Cli, digits: Path, tmp_path: Path) -> None:
    names = ["a|b<i>.onnx", "# `x` [y](z).onnx"]
    for name, own in zip(names, "ab", strict=True):
        shutil.copy(digits / f"{own}.onnx", tmp_path / name)
    parents = [tmp_path / name for name in names]
    card = tmp_path / "README.md"
    assert cli("run", *parents, "--method", "average", "-q", "-o", tmp_path / "m.onnx", "--card", card)[0] == 0
    header, body = parts(card)
    assert header["base_model"] == names
    assert "A merge of a\\|b\\<i\\>.onnx and \\# \\`x\\` \\[y\\](z).onnx into" in body


def test_scores_make_a_card_of_a_merged_model(cli: Cli, digits: Path, tmp_path: Path) -> None:
    merged, card, test = tmp_path / "m.onnx", tmp_path / "README.md", digits / "test.npz"
    parents = [digits / "a.onnx", digits / "b.onnx"]
    assert cli("run", *parents, "--method", "average", "-q", "-o", merged)[0] == 0
    asked = ("--data", test, "--labels", test, "--tasks", digits / "task.json", "--card", card)
    assert cli("eval", merged, "--parents", ",".join(map(str, parents)), *asked)[0] == 0
    header, body = parts(card)
    assert header["base_model"] == ["a.onnx", "b.onnx"]
    assert "| a.onnx (trained on 0-4) | 100.0 ±1.4 | 15.6 ±4.8 | 57.8 ±2.4 | 50.1 ±4.2 | 45.7 |" in body
    assert "| method | average |" in body
    card.unlink()
    code, _, err = cli("eval", parents[0], *asked)
    assert (code, card.exists()) == (1, False)
    assert "does not say that onnxmerge merged it" in err
    code, _, err = cli("eval", merged, *parents, *asked)
    assert (code, card.exists()) == (2, False)
    assert "--parents" in err


def test_a_card_names_no_parents_but_those_of_the_merge(cli: Cli, digits: Path, tmp_path: Path) -> None:
    merged, card, test = tmp_path / "m.onnx", tmp_path / "README.md", digits / "test.npz"
    assert cli("run", digits / "a.onnx", digits / "b.onnx", "--method", "average", "-q", "-o", merged)[0] == 0
    permuted = tmp_path / "stranger.onnx"
    assert cli("permute", digits / "a.onnx", "-o", permuted)[0] == 0
    asked = ("--data", test, "--labels", test, "--tasks", digits / "task.json", "--card", card)
    code, _, err = cli("eval", merged, "--parents", f"{digits / 'a.onnx'},{permuted}", *asked)
    assert (code, card.exists()) == (1, False)
    assert "stranger.onnx: is not one of the models" in err


def test_heads_tasks_and_the_base_are_told_without_paths(cli: Cli, digits: Path, tmp_path: Path) -> None:
    merged, card, test = tmp_path / "m.onnx", tmp_path / "README.md", digits / "test.npz"
    run = ("run", digits / "a.onnx", digits / "b.onnx", "--method", "average", "-q", "-o", merged)
    assert cli(*run, "--heads", "separate", "--card", card)[0] == 0
    told = card.read_text(encoding="utf-8")
    assert "| outputs | embedding\\_a  a.onnx |" in told
    assert str(digits) not in told.partition("## The same again")[0]
    tasks = ("--task", "x|y <b>=0-4@embedding_a", "--task", "**t**=5-9@embedding_b")
    assert cli("eval", merged, "--data", test, "--labels", test, *tasks, "--card", card)[0] == 0
    assert "| model | x\\|y \\<b\\> | \\*\\*t\\*\\* |" in card.read_text(encoding="utf-8")
    assert cli(*run[:3], "--base", digits / "a.onnx", "--method", "tsv-m", "-q", "-o", merged, "--card", card)[0] == 0
    header, body = parts(card)
    assert header["base_model"][-1] == "a.onnx"
    assert "fine-tuned from a.onnx," in body
