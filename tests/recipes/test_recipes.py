"""Recipes are validated, read and written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from onnxmerge import InputError, OnnxmergeError
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.task_vectors import ParameterRule
from onnxmerge.pipeline.methods import OWN_OPTIONS
from onnxmerge.pipeline.options import COMMON, merge_options
from onnxmerge.recipes.file import json_schema, read_recipe, recipe_text
from onnxmerge.recipes.recipe import Calibration, Recipe
from onnxmerge.resources import specs

TEXT = """
models: [a.onnx, sub/b.onnx]
calibration: {data: images, image_size: [32, 64], mean: [0.5, 0.5, 0.5]}
method: mudsc-align
alpha: 0.25
operators: own.yaml
groups:
  - {match: "layer3.*", pin: true}
  - {match: p1, alpha: 1}
labels: labels.csv
vectors: words.npy
tasks: [low=0-4, high=5-9@y]
inputs: {x: [1, 3, 8], rate: rate.npy, gain: []}
output: out/merged.onnx
"""


def test_a_recipe_says_what_the_command_line_says(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.models == (str(tmp_path / "a.onnx"), str(tmp_path / "sub" / "b.onnx"))
    assert recipe.calibration == Calibration(str(tmp_path / "images"), image_size=(32, 64), mean=(0.5, 0.5, 0.5))
    assert recipe.calibration.image_options == {"image_size": (32, 64), "mean": (0.5, 0.5, 0.5)}
    assert recipe.output == str(tmp_path / "out" / "merged.onnx")
    assert (recipe.labels, recipe.vectors) == (str(tmp_path / "labels.csv"), str(tmp_path / "words.npy"))
    assert recipe.tasks == ("low=0-4", "high=5-9@y")
    assert recipe.inputs == {"x": "1,3,8", "rate": str(tmp_path / "rate.npy"), "gain": "scalar"}
    rules = (GroupRule("layer3.*", pin=True), GroupRule("p1", alpha=1))
    expected = {"method": "mudsc-align", "alpha": 0.25, "operators": tmp_path / "own.yaml", "groups": rules}
    assert recipe.options.settled() == merge_options(expected).settled()


def test_what_is_written_reads_as_the_same(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = read_recipe(tmp_path / "r.yaml")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "copy.yaml").write_text(recipe_text(recipe, tmp_path / "other"))
    assert read_recipe(tmp_path / "other" / "copy.yaml") == recipe
    assert "../a.onnx" in (tmp_path / "other" / "copy.yaml").read_text()
    asked = replace(recipe, tasks=str(tmp_path / "tasks.yaml"))
    (tmp_path / "other" / "copy.yaml").write_text(recipe_text(asked, tmp_path / "other"))
    assert read_recipe(tmp_path / "other" / "copy.yaml") == asked
    assert "tasks: ../tasks.yaml" in (tmp_path / "other" / "copy.yaml").read_text()


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    recipe = Recipe((str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")))
    assert recipe_text(recipe, tmp_path) == "models:\n- a.onnx\n- b.onnx\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a.onnx, b.onnx]\nalfa: 0.5", "there is no key 'alfa'"),
        ("method: average", "key 'models' is missing"),
        ("models: [a.onnx, b.onnx]\nalpha: much", "alpha: .*found 'much'"),
        (
            "models: [a.onnx, b.onnx]\ncalibration: {images: x}",
            "there is no key 'calibration.images'|key 'calibration.data' is missing",
        ),
        ("models: [a.onnx, b.onnx]\ngroups: [{match: w, pinned: true}]", "no key 'groups.0.pinned'"),
        ("models: [a.onnx, b.onnx]\nrepair: maybe", "repair: .*found 'maybe'"),
        ("- a.onnx", "expected a mapping"),
        ("models: [a", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_recipe(tmp_path / "r.yaml")
    assert str(error.value).startswith(str(tmp_path / "r.yaml"))
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_recipe(tmp_path / "none.yaml")


def test_every_option_has_its_key_in_the_published_schema() -> None:
    """After a change of options: python tools/recipe_schema.py."""
    stored = json.loads((specs() / "recipes" / "recipe.schema.json").read_text())
    assert stored == json_schema()
    assert {*COMMON, *OWN_OPTIONS} <= stored["properties"].keys()


def test_scales_by_pattern_are_read_and_written(tmp_path: Path) -> None:
    text = (
        "models: [a.onnx, b.onnx]\nbase: base.onnx\nmethod: tsv-m\nscale: auto\n"
        "parameters:\n  - {filter: '*.attn.*', value: 0.3}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert dict(recipe.options.own) == {"scale": "auto", "parameters": (ParameterRule("*.attn.*", 0.3),)}
    (tmp_path / "again.yaml").write_text(recipe_text(recipe, tmp_path))
    assert read_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("density: 0.3", "r.yaml: --density is for methods"),
        ("scale: high", "scale: input should be"),
        ("parameters: [{filter: a}]", "parameters.0.value"),
        ("parameters: [{filter: a, value: high}]", "value"),
        ("parameters: [{match: a, value: 1}]", "parameters.0.filter"),
    ],
)
def test_options_of_methods_are_held_to_what_they_may_be(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"models: [a.onnx, b.onnx]\nbase: base.onnx\nmethod: tsv-m\n{line}\n")
    with pytest.raises(OnnxmergeError, match=re.escape(said)):
        read_recipe(tmp_path / "r.yaml")
