"""What operators are known for stands in specs/operators, and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxmerge.axes.operators import builtin_operators, read_operators
from onnxmerge.axes.signature import SignatureError
from onnxmerge.errors import InputError
from onnxmerge.model import traits

QUANTISED = {"model/quantised.py"}
"""Some of the operators that read quantised weights are not described at all, so they have no entry."""


def node(operator: str, domain: str = "") -> ir.Node:
    return ir.node(operator, [], domain=domain)


@pytest.mark.parametrize("trait", traits.TRAITS)
def test_every_trait_is_that_of_some_operator(trait: str) -> None:
    assert any(traits.known_for(*operator, trait) for operator in builtin_operators())


@pytest.mark.parametrize(
    ("operator", "domain", "trait", "operands"),
    [
        ("Conv", "", "weights", (1, 2)),
        ("LSTM", "ai.onnx", "weights", (1, 2, 3)),
        ("Div", "", "scales", (0,)),
        ("MultiHeadAttention", "com.microsoft", "attends", (0, 1, 2, 3)),
        ("Relu", "", "scales", ()),
        ("Conv", "my.own", "weights", ()),
    ],
)
def test_a_trait_names_its_operands(operator: str, domain: str, trait: str, operands: tuple[int, ...]) -> None:
    assert traits.operands_of(node(operator, domain), trait) == operands
    assert traits.has(node(operator, domain), trait) == bool(operands)


def test_every_variant_has_the_traits() -> None:
    assert traits.has(node("MaxPool"), "pools")
    assert traits.has(node("BatchNormalization", "ai.onnx"), "normalises")


def test_a_norm_of_a_window_may_be_above_all_that_is_in_it() -> None:
    assert traits.has(node("LpPool"), "pools")
    assert not traits.has(node("LpPool"), "bounded_by_inputs")
    assert traits.has(node("AveragePool"), "bounded_by_inputs")


def test_a_trait_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traits, "described", lambda: {"own.yaml": {"my": {"Op": {"traits": ["brave"]}}}})
    with pytest.raises(InputError, match=r"own\.yaml: my::Op: there is no trait 'brave'"):
        traits._operators.__wrapped__()


def test_traits_are_not_for_files_of_the_user_s(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("my: {Op: {elementwise: true, traits: [commutative]}}")
    with pytest.raises(SignatureError, match="unknown key 'traits'"):
        read_operators(tmp_path / "own.yaml")


def test_no_module_lists_operators(checkout: Path) -> None:
    names = {name for _, name in builtin_operators()}
    package = checkout / "onnxmerge"
    found = []
    for path in sorted(package.rglob("*.py")):
        for each in ast.walk(ast.parse(path.read_text())):
            if isinstance(each, (ast.Set, ast.Tuple, ast.List)) and len(each.elts) > 4:
                texts = {item.value for item in each.elts if isinstance(item, ast.Constant)}
                if texts and texts <= names:
                    found.append(path.relative_to(package).as_posix())
    assert set(found) == QUANTISED
