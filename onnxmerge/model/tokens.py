"""Token lists: which token each id of a language model stands for, and the one list that several make together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxmerge.documents import read_json
from onnxmerge.errors import InputError
from onnxmerge.files import named, read_text
from onnxmerge.text import shown
from onnxmerge.types import Positions

TokenSource: TypeAlias = str | os.PathLike[str] | Sequence[str]
"""A file, or the tokens in order of their ids."""

WHAT = "a token list"
MOST_TOKENS = 1 << 22
"""The largest vocabulary; those of language models have up to 300,000 tokens."""

UNNAMED = "<unused {}>"
"""What a row is called that a mapping gives no token to, by its id: models are padded so to a round number of rows."""


@dataclass(frozen=True, slots=True)
class TokenList:
    """The token of each id (None: it has none); ``label`` is what messages call the list.

    ``whole``: every row of the model has a token, as in a list with one line for each. A mapping may leave rows out.
    """

    label: str
    tokens: tuple[str | None, ...]
    whole: bool

    def over(self, rows: int) -> tuple[str, ...]:
        """A token for each of ``rows`` rows, those without one called UNNAMED. Raises InputError for a name twice."""
        padded = (*self.tokens, *(None,) * (rows - len(self.tokens)))
        found = tuple(UNNAMED.format(place) if token is None else token for place, token in enumerate(padded))
        _require_once(found, self.label)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class MergedTokens:
    """The tokens of several lists in one.

    ``rows[m]`` [tokens] is the id that each has in list m, -1 where that lacks it.
    """

    tokens: tuple[str, ...]
    rows: tuple[Positions, ...]

    def places(self, model: int, count: int) -> Positions:
        """For each of the ``count`` ids of list m the id that its token has here, -1 where it is left out."""
        found = np.full(count, -1, np.int64)
        own = self.rows[model]
        found[own[own >= 0]] = np.flatnonzero(own >= 0)
        return found

    @property
    def sha256(self) -> str:
        """The digest of the tokens in order."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()

    def text(self, file: Path) -> str:
        """The content of a file: a mapping of tokens to ids in a .json, else a line for each token."""
        if is_json(file):
            return json.dumps({token: place for place, token in enumerate(self.tokens)}, ensure_ascii=False) + "\n"
        return "".join(f"{token}\n" for token in self.tokens)


def token_file(model: Path, *, json_: bool) -> Path:
    """Where the token list of a model stands that is written to ``model``: beside it."""
    return model.with_name(f"{model.stem}.vocab.{'json' if json_ else 'txt'}")


def is_json(source: object) -> bool:
    """Whether a list is, or is to be, a mapping in a file of JSON."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".json"


def read_tokens(source: TokenSource, label: str) -> TokenList:
    """Read a token list: a line for each id, or in a .json a mapping of tokens to ids, tokenizer.json among them.

    ``label`` is what messages call a list that is no file. Raises InputError, naming the line or the key.
    """
    if not isinstance(source, str | os.PathLike):
        tokens = tuple(source)
        _require_texts(tokens, label)
        return _checked(TokenList(label, tokens, whole=True))
    label = named(source)
    if is_json(source):
        return _checked(_from_json(read_json(source, WHAT), label))
    lines = read_text(source, WHAT).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line:
            raise InputError(f"{label}: line {number} is empty; expected one token on each line, in order of their ids")
    return _checked(TokenList(label, tuple(lines), whole=True))


def merged_tokens(lists: Sequence[Sequence[str]], *, union: bool, merged: int) -> MergedTokens:
    """The tokens of the first list, and with ``union`` those that only others have, in order, behind them.

    Of the lists the first ``merged`` say which tokens there are; one behind them, that of a base, adds none.
    """
    every = (token for tokens in lists[: merged if union else 1] for token in tokens)
    tokens = tuple(dict.fromkeys(every))
    rows = []
    for own in lists:
        ids = {token: place for place, token in enumerate(own)}
        rows.append(np.array([ids.get(token, -1) for token in tokens], np.int64))
    return MergedTokens(tokens, tuple(rows))


def require_lines(tokens: Iterable[str], file: str) -> None:
    """Raise InputError where tokens cannot stand on lines of their own, as in ``file``."""
    for token in tokens:
        if "\n" in token or token.endswith("\r") or "\0" in token or token.startswith("\ufeff"):
            what = "a byte order mark" if token.startswith("\ufeff") else "NUL" if "\0" in token else "a line break"
            raise InputError(
                f"{file}: token {shown(token)} holds {what}, and the merged list is to have a line for each; "
                "give the first model's list as JSON"
            )


def _from_json(found: Any, label: str) -> TokenList:
    """The list that a vocab.json or a tokenizer.json holds."""
    added: dict[str, Any] = {}
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        added = _added(found.get("added_tokens", []), label)
        found = found["model"].get("vocab")
    if isinstance(found, list):
        tokens = [each[0] if isinstance(each, list) and each else each for each in found]  # (token, score) of unigrams
        _require_texts(tokens, label)
        if not added:
            return TokenList(label, tuple(tokens), whole=True)
        found = {token: place for place, token in enumerate(tokens)}
        if len(found) < len(tokens):
            _require_once(tokens, label)
    if not isinstance(found, dict):
        raise InputError(
            f"{label}: holds no token list; expected tokens with their ids, as in a vocab.json, or a tokenizer.json"
        )
    return TokenList(label, _by_id({**found, **added}, label), whole=False)


def _added(found: Any, label: str) -> dict[str, Any]:
    """The tokens that a tokenizer adds to those of its model."""
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{label}: added_tokens: expected a list of tokens, found {shown(found)}")
    for each in found:
        if not isinstance(each.get("content"), str):
            raise InputError(f"{label}: added token {shown(each.get('content'))} is no text")
    return {each["content"]: each.get("id") for each in found}


def _by_id(ids: Mapping[str, Any], label: str) -> tuple[str | None, ...]:
    for token, place in ids.items():
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < MOST_TOKENS:
            raise InputError(
                f"{label}: token {shown(token)} has id {shown(place)}; expected a whole number from 0 to "
                f"{MOST_TOKENS - 1:,}"
            )
    tokens: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    for token, place in ids.items():
        other = tokens[place]
        if other is not None:
            raise InputError(f"{label}: tokens {shown(other)} and {shown(token)} both have id {place}")
        tokens[place] = token
    return tuple(tokens)


def _checked(found: TokenList) -> TokenList:
    if not found.tokens:
        raise InputError(f"{found.label}: holds no token")
    if len(found.tokens) > MOST_TOKENS:
        raise InputError(f"{found.label}: has {len(found.tokens):,} tokens, {WHAT} has at most {MOST_TOKENS:,}")
    _require_once(found.tokens, found.label)
    for token in found.tokens:
        if token is not None and (token == "" or not _encodable(token)):
            raise InputError(f"{found.label}: token {shown(token)} is no text; expected characters that UTF-8 has")
    return found


def _encodable(token: str) -> bool:
    try:
        token.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _require_texts(tokens: Sequence[object], label: str) -> None:
    for place, token in enumerate(tokens):
        if not isinstance(token, str):
            raise InputError(f"{label}: id {place} has {shown(token)} for a token; expected text")


def _require_once(tokens: Sequence[str | None], label: str) -> None:
    known: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token is not None and known.setdefault(token, place) != place:
            raise InputError(
                f"{label}: token {shown(token)} has two ids, {known[token]} and {place}; give each of them a name of "
                "its own"
            )
