"""Two merges that may differ have different recipes in them, whichever single thing they differ in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.task_vectors import ParameterRule
from onnxmerge.pipeline.options import COMMON, MergeOptions, merge_options
from onnxmerge.pipeline.provenance import canonical_recipe
from tests.attacks.pair import write_pair

MODELS = ("1" * 64, "2" * 64)
OTHER: dict[str, Any] = {
    "method": "rebasin",
    "repair": "bias",
    "refine": "ls",
    "answer": "ensemble",
    "outputs": "logits",
    "output_mean": "drop",
    "effort": "fast",
    "rotate": True,
    "seed": 1,
    "samples": 7,
    "weights": (1.0, 2.0),
    "batch_size": 3,
    "heads": "separate",
    "until": ("node",),
    "share": 0.5,
    "width": 0.5,
    "within": 2.0,
    "smallest_in": "flops",
    "output_type": "float16",
    "merged_vocab": "first",
    "export_for_training": True,
}
"""Another value for each option; those of ``operators`` and ``provider`` depend on the machine."""


OWN: dict[str, tuple[str, Any]] = {
    "alpha": ("c2m3", 0.25),
    "objective": ("rebasin", "inner"),
    "zip_a": ("zipit", 0.25),
    "zip_b": ("zipit", 0.75),
    "groups": ("rebasin", (GroupRule("a*", pin=True),)),
    "density": ("ties", 0.3),
    "parameters": ("ties", (ParameterRule("a*", 0.5),)),
}
"""A method with an option of its own, and another value for that."""


@pytest.mark.parametrize("name", OWN)
def test_every_own_option_counts(name: str) -> None:
    method, value = OWN[name]
    plain, other = merge_options({"method": method}), merge_options({"method": method, name: value})
    assert canonical_recipe(plain, models=MODELS) != canonical_recipe(other, models=MODELS)


@pytest.mark.parametrize("name", COMMON)
def test_every_option_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = OTHER.get(name)
    if name == "operators":
        other = tmp_path / "ops.yaml"
        other.write_text("{}")
    if name == "provider":
        monkeypatch.setattr("onnxmerge.model.runtimes.onnx_runtime._loads", lambda choice: False)  # noqa: ARG005
        monkeypatch.setattr("onnxmerge.pipeline.provenance.available", lambda choice: choice.replace("auto", "cpu"))
        other = "cuda"
    assert other is not None, f"give another value for the option {name!r} here"
    options = replace(MergeOptions(), **{name: other})
    assert canonical_recipe(options, models=MODELS) != canonical_recipe(MergeOptions(), models=MODELS)


def test_inputs_count_by_what_they_hold(tmp_path: Path) -> None:
    plain = canonical_recipe(MergeOptions(), models=MODELS)
    assert json.loads(plain)["models"] == list(MODELS)
    others = [
        canonical_recipe(MergeOptions(), models=MODELS[::-1]),
        canonical_recipe(MergeOptions(), models=MODELS, base=MODELS[0]),
        canonical_recipe(MergeOptions(), models=MODELS, calibration=MODELS[0]),
    ]
    given: list[tuple[int, ...] | np.ndarray[Any, Any]] = [(1, 3), (1, 4), np.zeros(3), np.ones(3)]
    others += [canonical_recipe(MergeOptions(), models=MODELS, inputs={"x": each}) for each in given]
    assert len({plain, *others}) == 8
    for name, text in (("a.yaml", "{}"), ("b.yaml", "{}"), ("c.yaml", "{} ")):
        (tmp_path / name).write_text(text)
    first, same, other = (
        canonical_recipe(MergeOptions(operators=tmp_path / name), models=MODELS)
        for name in ("a.yaml", "b.yaml", "c.yaml")
    )
    assert first == same
    assert first != other
    assert str(tmp_path) not in first


def test_a_number_is_the_same_however_it_was_given() -> None:
    whole, broken = (merge_options({"method": "c2m3", "alpha": one, "weights": (one, 2 * one)}) for one in (1, 1.0))
    assert canonical_recipe(whole, models=MODELS) == canonical_recipe(broken, models=MODELS)


def test_it_is_written_into_the_model(tmp_path: Path) -> None:
    write_pair(tmp_path)
    x, labels = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32), np.arange(40) % 3

    def written(given: np.ndarray[Any, Any] | None) -> str:
        models = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
        result = onnxmerge.merge(models, calibration=x, labels=given, method="rebasin", samples=40)
        found = onnx.load(result.save(tmp_path / "m.onnx"))
        recipe = next(str(entry.value) for entry in found.metadata_props if entry.key == "onnxmerge.recipe")
        assert recipe == result.report.to_dict()["recipe"]
        assert json.loads(recipe)["calibration"] == result.report.calibration
        assert json.loads(recipe)["samples"] == 40
        return recipe

    assert len({written(None), written(labels), written(labels[::-1].copy())}) == 3


def test_class_vectors_count() -> None:
    one, other = ({"y": [np.full((2, 3), value, np.float32)]} for value in (1, 2))
    assert len({canonical_recipe(MergeOptions(), models=MODELS, vectors=each) for each in (None, one, other)}) == 3
