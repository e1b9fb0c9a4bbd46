"""Token lists as files hold them, and what several make together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxmerge.errors import InputError
from onnxmerge.model.tokens import merged_tokens, read_tokens, require_lines, token_file


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


ADDED = {"model": {"vocab": {"b": 1, "a": 0}}, "added_tokens": [{"id": 3, "content": "<s>"}, {"id": 0, "content": "a"}]}
UNIGRAM = {"model": {"vocab": [["a", -1.5], ["b", -2]]}}


@pytest.mark.parametrize(
    ("name", "content", "tokens", "whole"),
    [
        ("t.txt", b"a\nb\n", ("a", "b"), True),
        ("t.txt", b"\xef\xbb\xbfa\r\n b \r\n", ("a", " b "), True),
        ("t.txt", "\u2028\n\x85\n\r".encode(), ("\u2028", "\x85", "\r"), True),
        ("t.json", {"b": 2, "a": 0}, ("a", None, "b"), False),
        ("t.JSON", ["a", "\n"], ("a", "\n"), True),
        ("tokenizer.json", ADDED, ("a", "b", None, "<s>"), False),
        ("tokenizer.json", UNIGRAM, ("a", "b"), True),
        ("tokenizer.json", {**UNIGRAM, "added_tokens": [{"id": 2, "content": "c"}]}, ("a", "b", "c"), False),
    ],
)
def test_a_token_list_is_lines_or_json(
    tmp_path: Path, name: str, content: Any, tokens: tuple[str, ...], *, whole: bool
) -> None:
    found = read_tokens(written(tmp_path, name, content), "list")
    assert (found.tokens, found.whole) == (tokens, whole)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", b"", "holds no token"),
        ("t.txt", b"a\n\nb\n", "line 2 is empty"),
        ("t.txt", b"a\nb\na\n", "token 'a' has two ids, 0 and 2"),
        ("t.txt", b"a\xff\n", "not UTF-8"),
        ("t.txt", b"a\0\n", "NUL"),
        ("t.json", b"{", "is not JSON"),
        ("t.json", b'{"a": 0, "a": 1}', "key 'a' is there twice"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
        ("t.json", {"a": 0, "b": 0}, "tokens 'a' and 'b' both have id 0"),
        ("t.json", {"a": -1}, "has id -1; expected a whole number from 0"),
        ("t.json", {"a": 1 << 40}, "expected a whole number"),
        ("t.json", {"a": True}, "expected a whole number"),
        ("t.json", {"a": 0.5}, "expected a whole number"),
        ("t.json", {"a": {"b": 0}}, "expected a whole number"),
        ("t.json", {}, "holds no token"),
        ("t.json", 7, "holds no token list"),
        ("t.json", [1, 2], "id 0 has 1 for a token"),
        ("t.json", ["a", "a"], "has two ids"),
        ("t.json", {"": 0}, "is no text"),
        ("t.json", b'{"\\ud800": 0}', "is no text"),
        ("t.json", {"model": {"type": "BPE"}}, "holds no token list"),
        ("t.json", {"model": {"vocab": {"a": 0}}, "added_tokens": 3}, "added_tokens: expected a list"),
        ("t.json", {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]}, "has id None"),
        ("t.json", {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}, "added token None"),
    ],
)
def test_what_is_no_token_list_is_said_in_one_line(tmp_path: Path, name: str, content: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        read_tokens(written(tmp_path, name, content), "list")
    assert name in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_rows_without_a_token_are_called_by_their_ids(tmp_path: Path) -> None:
    found = read_tokens(written(tmp_path, "t.json", {"a": 0, "b": 2}), "list")
    assert found.over(4) == ("a", "<unused 1>", "b", "<unused 3>")
    twice = read_tokens(written(tmp_path, "t.json", {"<unused 1>": 0, "b": 2}), "list")
    with pytest.raises(InputError, match="'<unused 1>' has two ids"):
        twice.over(3)


def test_the_first_list_comes_first_and_a_base_adds_nothing() -> None:
    lists = [["a", "b"], ["c", "b", "d"], ["e", "d", "a"]]
    union = merged_tokens(lists, union=True, merged=2)
    assert union.tokens == ("a", "b", "c", "d")
    assert [rows.tolist() for rows in union.rows] == [[0, 1, -1, -1], [-1, 1, 0, 2], [2, -1, -1, 1]]
    first = merged_tokens(lists, union=False, merged=3)
    assert [rows.tolist() for rows in first.rows] == [[0, 1], [-1, 1], [2, -1]]
    assert union.sha256 != first.sha256


@pytest.mark.parametrize("name", ["m.onnx", "m", "dir.d/m.sub.onnx"])
def test_the_merged_list_stands_beside_the_model(tmp_path: Path, name: str) -> None:
    stem = Path(name).stem
    assert token_file(tmp_path / name, json_=False) == (tmp_path / name).with_name(f"{stem}.vocab.txt")
    assert token_file(tmp_path / name, json_=True).suffix == ".json"


@pytest.mark.parametrize(("name", "tokens"), [("m.txt", ["a", "\u2028", " "]), ("m.json", ["a\n", "\r\n", "é"])])
def test_a_written_list_is_read_as_it_was(tmp_path: Path, name: str, tokens: list[str]) -> None:
    merged = merged_tokens([tokens], union=True, merged=1)
    (tmp_path / name).write_bytes(merged.text(tmp_path / name).encode())
    assert read_tokens(tmp_path / name, "list").tokens == tuple(tokens)


@pytest.mark.parametrize("token", ["\n", "a\nb", "a\r"])
def test_a_token_with_a_line_break_needs_json(token: str) -> None:
    with pytest.raises(InputError, match=r"t.txt: token .* holds a line break"):
        require_lines(["a", token], "t.txt")


@pytest.mark.parametrize(("token", "told"), [("a\0", "NUL"), ("\ufeffa", "a byte order mark")])
def test_a_token_that_would_not_be_read_back_needs_json(token: str, told: str) -> None:
    with pytest.raises(InputError, match=f"holds {told}"):
        require_lines([token], "t.txt")
