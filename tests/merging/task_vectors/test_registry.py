"""One registry of methods: what each says of itself is what the command line, recipes and docs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.merging.task_vectors.registry import TASK_VECTORS, options_of, own_options, table


@pytest.mark.smoke
def test_the_page_has_the_methods(checkout: Path) -> None:
    """After a change of methods: python tools/task_vectors.py."""
    assert table() in (checkout / "docs" / "task-vectors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_an_option_is_taken_by_the_methods_that_have_it_alone(name: str) -> None:
    values = {"inner": "ties", "parameters": (), "epsilon": 0.1, "density": 0.3}
    for option, (_, methods) in own_options().items():
        given = {option: values.get(option, 0.5)} | (
            {"inner": "ties"} if (name, option) == ("knots", "density") else {}
        )
        if name in methods:
            assert getattr(options_of(name, given), option) == given[option]
        else:
            with pytest.raises(UsageError, match=f"--{option} is for methods .*{methods[0]}.*; method {name} does not"):
                options_of(name, {option: given[option]})


def test_an_option_of_one_name_is_one_option() -> None:
    told: dict[str, str] = {}
    for method in TASK_VECTORS.values():
        for name in method.option_names:
            told.setdefault(name, own_options()[name][0].help)
            assert told[name] == own_options()[name][0].help


def test_each_method_is_a_module_of_its_name() -> None:
    for name, method in TASK_VECTORS.items():
        assert method.rule.__module__.endswith(f".methods.{name.replace('-', '_')}")
        assert method.source
