"""The conda recipe asks for what pyproject.toml asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import onnxmerge


@pytest.fixture(scope="module")
def recipe(checkout: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((checkout / "tools" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    return read


def listed(checkout: Path, key: str) -> set[tuple[str, str]]:
    """Names and versions of a list in pyproject.toml (tomllib came with Python 3.11); one ONNX Runtime for its two."""
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{key} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    parsed = [Requirement(each) for each in re.findall(r'(?<!\S)"([^"]+)"', found[1])]
    names = {"onnxruntime-gpu": "onnxruntime"}
    return {(canonicalize_name(names.get(each.name, each.name)), str(each.specifier)) for each in parsed}


def asked(recipe: dict[str, Any], part: str) -> set[tuple[str, str]]:
    """The same of the recipe, but for Python and pip."""
    every = [Requirement(each) for each in recipe["requirements"][part] if not each.startswith(("python ", "pip"))]
    return {(canonicalize_name(each.name), str(each.specifier)) for each in every}


def test_requirements_are_those_of_pyproject(recipe: dict[str, Any], checkout: Path) -> None:
    assert asked(recipe, "run") == listed(checkout, "dependencies")
    assert asked(recipe, "host") == listed(checkout, "requires")


def test_what_else_is_said_twice(recipe: dict[str, Any], checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    assert recipe["context"]["version"] == onnxmerge.__version__
    assert f'requires-python = ">={recipe["context"]["python_min"]}"' in text
    assert f'description = "{recipe["about"]["summary"]}"' in text
    assert f'license = "{recipe["about"]["license"]}"' in text
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert '{} = "{}"'.format(*entry.split(" = ")) in text
    assert [each for each in recipe["requirements"]["run"] if each.startswith("python ")] == [
        "python >=${{ python_min }}"
    ]
