"""Rules for single groups: pinned, or compared in another way than the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import UsageError, inspect, merge, permute
from onnxmerge.matching.overrides import GroupRule, spaces_named
from onnxmerge.pipeline.prepare import load, type_models
from tests.graphs import build, initializers, normal

MLP = """(float[n,6] x) => (float[n,3] y) {
    h = Gemm<transB=1>(x, w1, b1) r = Tanh(h) g = Gemm<transB=1>(r, w2, b2) s = Tanh(g) y = MatMul(s, w3) }"""


def pair(folder: Path) -> tuple[Any, Path]:
    model = build(MLP, normal(w1=(5, 6), b1=(5,), w2=(7, 5), b2=(7,), w3=(7, 3)))
    return model, permute(model, seed=1).save(folder / "copy.onnx")


@pytest.mark.parametrize("pattern", ["w1", "b[1]", "p0"])
def test_a_pinned_group_keeps_its_order(tmp_path: Path, pattern: str) -> None:
    model, copy = pair(tmp_path)
    assert inspect(model).to_dict()["groups"][0]["id"] == "p0"
    rule = GroupRule(pattern, pin=True)
    result = merge([model, copy], method="rebasin", repair="none", groups=(rule,))
    stored = initializers(model)
    mean = result.weights["b1"]
    copied = initializers(onnx.load(copy))
    np.testing.assert_allclose(mean, (stored["b1"] + copied["b1"]) / 2, rtol=1e-6)
    free = merge([model, copy], method="rebasin", repair="none")
    np.testing.assert_allclose(free.weights["b1"], stored["b1"], rtol=1e-6)
    assert any("pinned" in note for note in result.report.notes)


def test_a_group_may_be_compared_in_another_way(tmp_path: Path) -> None:
    model, copy = pair(tmp_path)
    data = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    for rule in (GroupRule("b2", method="rebasin"), GroupRule("w2", alpha=0.9), GroupRule("w*", method="act-align")):
        result = merge([model, copy], calibration={"x": data}, method="mudsc-align", repair="none", groups=(rule,))
        np.testing.assert_allclose(result.weights["w3"], initializers(model)["w3"], rtol=1e-6)


def test_the_last_rule_that_names_a_group_holds(tmp_path: Path) -> None:
    model, copy = pair(tmp_path)
    rules = (GroupRule("*", pin=True), GroupRule("*", alpha=1.0))
    result = merge([model, copy], method="rebasin", repair="none", groups=rules)
    np.testing.assert_allclose(result.weights["w3"], initializers(model)["w3"], rtol=1e-6)


def test_rules_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of pin, method and alpha"):
        GroupRule("w1")
    with pytest.raises(UsageError, match="between 0 and 1, found 2"):
        GroupRule("w1", alpha=2.0)
    model, copy = pair(tmp_path)
    with pytest.raises(UsageError, match="'nothing': no group"):
        merge([model, copy], method="rebasin", groups=(GroupRule("nothing", pin=True),))
    with pytest.raises(UsageError, match="does not look at activations"):
        merge([model, copy], method="rebasin", groups=(GroupRule("w1", alpha=0.5),))


def test_a_group_is_meant_by_its_id_where_an_initializer_is_called_so() -> None:
    model = build(MLP.replace("w1, b1", "p1, b1"), normal(p1=(5, 6), b1=(5,), w2=(7, 5), b2=(7,), w3=(7, 3)))
    typing = type_models(load([model]), None, None).typing
    assert spaces_named("p1", typing, "rule") == ["p1"]
    assert spaces_named("b1", typing, "rule") == ["p0"]
