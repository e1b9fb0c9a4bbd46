"""The methods for models of one pretraining, by name: one for each module in ``methods``.

A new method is a new file there, with a ``METHOD``: the command line, its help, recipes, checks of options and the
table in docs/task-vectors.md are made of what it says.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from onnxmerge.errors import UsageError
from onnxmerge.merging.task_vectors import methods
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Described, MethodOptions, describe, flag


def _found() -> dict[str, TaskVectorMethod[Any]]:
    names = sorted(each.name for each in pkgutil.iter_modules(methods.__path__))
    found = [import_module(f"{methods.__name__}.{name}").METHOD for name in names]
    return {method.name: method for method in found}


TASK_VECTORS: Mapping[str, TaskVectorMethod[Any]] = _found()


def own_options() -> Mapping[str, tuple[Described, tuple[str, ...]]]:
    """Every option that some method has of its own, and the methods that have it."""
    found: dict[str, tuple[Described, tuple[str, ...]]] = {}
    for method in TASK_VECTORS.values():
        for name, described in describe(method.options).items():
            known, methods_of = found.get(name, (described, ()))
            found[name] = (described if described.auto else known, (*methods_of, method.name))
    return found


def options_of(method: str, given: Mapping[str, Any], *, named: bool = True) -> MethodOptions | None:
    """The options of a method with what is ``given`` for its own; None for a method that has none of its own.

    ``named`` says whether the user chose the method.

    Raises UsageError for an option that the method does not have, or a value that cannot be meant.
    """
    known = TASK_VECTORS.get(method)
    for name in given:
        if known is None or name not in known.option_names:
            takers = ", ".join(own_options()[name][1])
            told = f"method {method} does not use it" if named else "choose one (--method)"
            raise UsageError(f"{flag(name)} is for methods {takers}; {told}")
    return None if known is None else known.options(**given)


def table() -> str:
    """All methods in Markdown, a row each, for docs/task-vectors.md."""
    rows = ["| `--method` | what it does | needs | its own options, by default | source |", "|---|---|---|---|---|"]
    for method in TASK_VECTORS.values():
        needs = {"base": "`--base`", "base or zero": "takes `--base`", "mean": ""}[method.origin]
        options = f"`{method.defaults}`" if method.defaults else ""
        rows.append(f"| `{method.name}` | {method.summary} | {needs} | {options} | {method.source} |")
    return "\n".join(rows)
