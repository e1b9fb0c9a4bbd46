"""Where a model is to run, as tables in specs/targets: versions, operators, and the sources that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from onnxmerge.documents import read_yaml
from onnxmerge.errors import UsageError
from onnxmerge.resources import specs
from onnxmerge.text import shown

RUNTIME = "onnxruntime"
OLDEST_OPSET = 7
"""Of the standard operators, that every ONNX Runtime runs."""

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?")


@dataclass(frozen=True, slots=True)
class Target:
    """A place where models run.

    ``opsets`` are the oldest and the newest of the standard domain, ``ir`` the newest IR version (None: any).
    ``unsupported`` are standard operators that it lacks; ``domains`` has the operators of other domains that it knows
    (None: all of that domain), and knows no other domain. ``size`` bounds the bytes of a model.
    """

    name: str
    opsets: tuple[int, int]
    ir: int | None = None
    unsupported: frozenset[str] = frozenset()
    domains: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    size: int | None = None


def target_names() -> tuple[str, ...]:
    """The targets that there are tables of."""
    return tuple(sorted(path.stem for path in (specs() / "targets").glob("*.yaml") if path.stem != RUNTIME))


def target(name: str) -> Target:
    """The table of a target. Raises UsageError where there is none."""
    if name not in target_names():
        raise UsageError(f"--target {shown(name)}: there is no table of it; choose one of {', '.join(target_names())}")
    table = _table(name)
    oldest, newest = table["opset"]
    domains = {
        domain: None if known == "all" else frozenset(known) for domain, known in table.get("domains", {}).items()
    }
    unsupported = frozenset(table.get("unsupported", ()))
    return Target(name, (oldest, newest), table.get("ir"), unsupported, domains, table.get("bytes"))


def runtime(version: str) -> Target:
    """An ONNX Runtime by its version, such as 1.17 or 1.17.3. Raises UsageError for one that is not in the table."""
    versions: dict[str, Any] = _table(RUNTIME)["versions"]
    found = _VERSION.fullmatch(version)
    number = f"{int(found[1])}.{int(found[2])}" if found else ""
    row = versions.get(number)
    if row is None:
        first, *_, last = versions
        raise UsageError(f"--min-runtime {shown(version)}: expected a version from {first} to {last}, such as 1.17")
    until = list(versions)[: list(versions).index(number) + 1]
    own = frozenset(name for each in until for name in versions[each]["operators"])
    domains: dict[str, frozenset[str] | None] = {"com.microsoft": own, "ai.onnx.ml": None}
    return Target(f"{RUNTIME} {version}", (OLDEST_OPSET, row["opset"]), row["ir"], domains=domains)


@cache
def _table(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(specs() / "targets" / f"{name}.yaml", "a table of a target")
    return found
