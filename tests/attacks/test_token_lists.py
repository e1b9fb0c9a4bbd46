"""Token lists that are none, are another model's, or are made to exhaust whoever reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.attacks.attack import Attack, attacks, contents
from tests.command_line import Cli
from tests.vocabularies import language_model, words

A, B = range(12), range(3, 14)
RUN = ["run", "a.onnx", "b.onnx", "--vocab", "a.txt", "--method", "average", "-o", "m.onnx", "--vocab"]

Content = bytes | Callable[[Path], object]


def lines(tokens: object) -> bytes:
    return "".join(f"{token}\n" for token in tokens).encode()  # type: ignore[attr-defined]


def models(folder: Path) -> None:
    for seed, (name, own) in enumerate((("a", A), ("b", B))):
        onnx.save(language_model(len(own), seed), folder / f"{name}.onnx")
        (folder / f"{name}.txt").write_bytes(lines(words([*own])))


def given(name: str, content: Content) -> Callable[[Path], list[str]]:
    """The second model's list is what ``content`` is, or makes at that place."""

    def build(folder: Path) -> list[str]:
        models(folder)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
        return [*RUN, name]

    return build


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 27)


HOSTILE: dict[str, tuple[str, Content, str]] = {
    "missing": ("t.txt", lambda _path: None, "no such file; a token list is expected"),
    "folder": ("t.txt", Path.mkdir, "is a folder"),
    "pipe": ("t.txt", os.mkfifo, "is a pipe"),
    "device": ("t.txt", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "huge": ("t.txt", sparse, "a token list has at most"),
    "empty": ("t.txt", b"", "holds no token"),
    "a model": ("a.onnx", lambda _path: None, "is not UTF-8 text"),
    "too few": (
        "t.txt",
        lines(words([*B])[:-1]),
        "b.onnx that ids look up have rows: 11",
    ),
    "too many": ("t.txt", lines(words(range(20))), "has 20 tokens"),
    "twice": ("t.txt", lines([*words([*B])[:-1], "token3"]), "token 'token3' has two ids, 0 and 10"),
    "terminal codes": ("t.txt", lines(["\x1b[31m", "\x1b[31m"]), "token '\\x1b[31m' has two ids"),
    "long tokens": ("t.txt", lines(["a" * 100_000] * 2), "has two ids"),
    "other tokens": (
        "t.json",
        json.dumps(dict.fromkeys(words([*B]), 1 << 30)).encode(),
        "expected a whole number",
    ),
    "a number too long": ("t.json", b'{"a": ' + b"9" * 5000 + b"}", "t.json"),
    "nan": ("t.json", b'{"a": NaN}', "is no number"),
    "deep": ("t.json", b'{"model": ' * 50_000, "nested too deeply"),
    "many twins": ("t.json", b"{" + b'"a": 0, ' * 500_000 + b'"b": 1}', "is there twice"),
    "wider than the model": ("t.json", json.dumps({"a": 40}).encode(), "has 41 tokens"),
}


@attacks(*(Attack(name, given(file, content), says=(says,)) for name, (file, content, says) in HOSTILE.items()))
def test_what_is_no_token_list(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@pytest.mark.parametrize("failing", ["m.onnx", "m.vocab.txt"])
def test_the_model_and_its_tokens_appear_or_neither(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    models(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"precious")
    (tmp_path / "m.vocab.txt").write_bytes(b"of it")
    before = contents(tmp_path)
    move = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == tmp_path / failing and self.name == failing:
            raise OSError("Input/output error")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert cli(*RUN, "b.txt").returncode == 1
    assert contents(tmp_path) == before
    monkeypatch.undo()


def test_a_python_merge_is_saved_with_its_tokens_and_over_no_list(tmp_path: Path) -> None:
    from onnxmerge import UsageError, merge

    models(tmp_path)
    (tmp_path / "m.vocab.txt").write_bytes(lines(words([*B])))
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    result = merge(paths, vocab=[tmp_path / "a.txt", tmp_path / "m.vocab.txt"], method="average")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is one of the token lists"):
        result.save(tmp_path / "m.onnx")
    assert contents(tmp_path) == before
    result.save(tmp_path / "n.onnx")
    assert (tmp_path / "n.vocab.txt").read_bytes() == lines(words(range(14)))
