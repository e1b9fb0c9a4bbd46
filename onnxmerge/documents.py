"""YAML and JSON files of the user's, read so that no file of that kind can exhaust the machine or mean two things.

Aliases may not multiply what the file says (a few lines can name a billion nodes), nesting is bounded by the parser's
own limit, keys occur once, numbers are finite. Every fault is one line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

from onnxmerge.errors import InputError
from onnxmerge.files import TEXT_BYTES, named, read_text
from onnxmerge.text import reason, shown

if TYPE_CHECKING:
    from pydantic import ValidationError

_YAML_BYTES = 1 << 22
"""The largest YAML file: its parser takes a second for a megabyte."""

_EXPANSION = 10
"""How many times over a document may be what its nodes are, by aliases that repeat them; small ones more."""

_SMALL = 10_000

_DEEP = "exceeded maximum nesting depth"
"""What libyaml says of more than 1000 levels; the parser in Python ends at its own limit of recursion."""


def first_fault(error: ValidationError, whole: str) -> str:
    """The first thing that does not fit a model, as "key: why"; ``whole`` names what has no key."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {reason(ValueError(first['msg']))}"


def read_yaml(path: str | os.PathLike[str], what: str) -> Any:
    """The content of a YAML file, of plain types. ``what`` names the kind of file. Raises InputError."""
    text = read_text(path, what, _YAML_BYTES)
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader, with more refused
    except RecursionError as error:
        raise InputError(f"{named(path)}: is nested too deeply for {what}") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        if getattr(error, "problem", None) == _DEEP:
            raise InputError(f"{named(path)}: is nested too deeply for {what}") from error
        raise InputError(f"{named(path)}: is not YAML: {_told(error)}") from error


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """The content of a JSON file. ``what`` names the kind of file. Raises InputError."""
    text = read_text(path, what, TEXT_BYTES)
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_mapping)
    except RecursionError as error:
        raise InputError(f"{named(path)}: is nested too deeply for {what}") from error
    except ValueError as error:
        raise InputError(f"{named(path)}: is not JSON: {reason(error)}") from error


if TYPE_CHECKING:
    from yaml import SafeLoader as _Safe
else:  # libyaml's is some seven times as fast, and there in all wheels; both read the same
    _Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """The safe loader, which refuses what `read_yaml` promises to refuse."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            sizes: dict[int, int] = {}
            if _size(node, sizes) > max(_EXPANSION * len(sizes), _SMALL):
                raise yaml.YAMLError("its aliases repeat one another too often")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            found = self.construct_object(key, deep=True)
            if isinstance(found, Hashable) and found in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {shown(found)} is there twice")
            if isinstance(found, Hashable):
                seen.add(found)
        return super().construct_mapping(node, deep)


_OPEN = 0
"""The size of a node whose parts are being counted."""


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes there are below one when every alias is written out; raises YAMLError for one inside itself."""
    if id(node) in sizes:
        if sizes[id(node)] == _OPEN:
            raise yaml.YAMLError("an alias stands inside what it names")
        return sizes[id(node)]
    sizes[id(node)] = _OPEN
    below = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [part for each in below for part in (each if isinstance(each, tuple) else (each,))]
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _told(error: Exception) -> str:
    """What YAML says, and where, without the excerpt that it draws."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return reason(ValueError(f"line {error.problem_mark.line + 1}: {error.problem or error.context}"))
    return reason(error)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {shown(name)} is there twice")
        found[name] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")
