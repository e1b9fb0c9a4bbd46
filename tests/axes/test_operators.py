"""The operator table: complete, true to the operators' schemas, and read with clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxmerge import inspect
from onnxmerge.axes.operators import OperatorSpec, builtin_operators, find_operator, read_operators
from onnxmerge.axes.signature import SignatureError
from onnxmerge.errors import InputError
from onnxmerge.resources import specs
from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import certified
from tests.graphs import build, normal

OF_ONNX_RUNTIME = {"SimplifiedLayerNormalization"}
"""Operators that ONNX Runtime adds to the standard domain."""


def test_every_onnx_operator_is_classified() -> None:
    """A new version of onnx that brings new operators fails here, with their names."""
    table = builtin_operators()
    names = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    assert sorted(names - table.keys()) == []


def test_no_operator_is_classified_that_does_not_exist() -> None:
    known = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    known |= {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    assert sorted(builtin_operators().keys() - known) == []


def test_no_operator_is_classified_twice() -> None:
    seen: set[tuple[str, str]] = set()
    for path in sorted((specs() / "operators").glob("*.yaml")):
        for domain, operators in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            again = seen & {(domain, name) for name in operators}
            assert again == set(), f"{path.name} repeats them"
            seen |= {(domain, name) for name in operators}


def _signatures() -> Iterator[tuple[str, str, OperatorSpec]]:
    for (domain, name), entries in builtin_operators().items():
        for entry in entries:
            if entry.inputs:
                yield domain, name, entry


@pytest.mark.parametrize(("domain", "name", "entry"), [s for s in _signatures() if s[0] != "com.microsoft"])
def test_signatures_name_the_operands_of_the_schema(domain: str, name: str, entry: OperatorSpec) -> None:
    """An operand that a new opset adds would go unseen otherwise."""
    if name in OF_ONNX_RUNTIME:
        return
    newest = onnx.defs.onnx_opset_version() if domain == "" else 100
    schema = onnx.defs.get_schema(name, entry.until or newest, domain)
    assert list(entry.inputs) == [operand.name for operand in schema.inputs]
    outputs = [operand.name for operand in schema.outputs]
    assert list(entry.outputs) == outputs[: len(entry.outputs)]


@pytest.mark.parametrize(("name", "entry"), [(s[1], s[2]) for s in _signatures() if s[0] == "com.microsoft"])
def test_signatures_of_onnx_runtime_name_its_operands(name: str, entry: OperatorSpec) -> None:
    """Operators of ONNX Runtime grow operands from release to release; those it has are described in order."""
    schemas = {s.name: s for s in get_all_operator_schema() if s.domain == "com.microsoft"}
    theirs = [operand.name for operand in schemas[name].inputs]
    common = min(len(theirs), len(entry.inputs))
    assert list(entry.inputs)[:common] == theirs[:common]


def test_older_opsets_find_their_own_entry() -> None:
    table = builtin_operators()
    (old,) = find_operator(table, "", "GroupNormalization", 18)
    (new,) = find_operator(table, "", "GroupNormalization", 21)
    assert old.until == 20
    assert new.until is None
    assert find_operator(table, "", "NoSuchOperator", 21) == ()


MALFORMED = {
    "Op: {inputs: {X: n c}, outputs: {Y: n c}, mixs: [c]}": "unknown key 'mixs'",
    "Op: {inputs: {X: n c}, rule: reshape}": "expected exactly one of",
    "Op: {note: nothing}": "found none",
    "Op: {rule: no_such_rule}": "there is no rule 'no_such_rule'",
    "Op: elementwize": "expected 'elementwise' or a mapping",
    "Op: {inputs: {X: 'n [c'}}": "cannot read the pattern 'n [c' at '[c'",
    "Op: {inputs: {X: n c}, statistics: [mean]}": "there is no input 'mean'",
    "Op: {inputs: {X: n c}, outputs: {Y: n c}, unused: [Z]}": "there is no output 'Z'",
    "Op: {inputs: {X: n c}, slides: [s, k]}": "'slides' takes three letters",
    "Op: {inputs: [n c]}": "'inputs' must be a mapping",
    "Op: {inputs: {X: n c}, until: new}": "'until' must be a number",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_entries_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"my.domain:\n  {text}\n", encoding="utf-8")
    with pytest.raises(SignatureError) as error:
        read_operators(path)
    assert str(error.value).startswith(f"{path}: my.domain::Op: ")
    assert MALFORMED[text] in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "my.domain: Op", ""])
def test_files_that_hold_no_operators_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.yaml"):
        read_operators(path)
    with pytest.raises(InputError, match=r"missing\.yaml: no such file"):
        read_operators(tmp_path / "missing.yaml")


def test_the_users_file_goes_before_the_built_in_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("ai.onnx:\n  Relu: {frozen: the order of these units is part of a protocol}\n", encoding="utf-8")
    model = build(
        "(float[n,4] x) => (float[n,2] y) { a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w2) }",
        normal(w1=(4, 5), w2=(5, 2)),
    )
    assert certified_groups(model) == {group(5, ("w1", 1), ("w2", 0))}
    found = inspect(model, certify=True, operators=path)
    assert found.groups == ()
    assert any("part of a protocol" in f.reason for f in found.fixed)


def test_the_users_file_describes_an_unknown_operator(tmp_path: Path) -> None:
    """ONNX Runtime's CDist: the distances between the rows of two matrices."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "com.microsoft:\n  CDist: {inputs: {A: m k, B: n k}, outputs: {C: m n}}\n",
        encoding="utf-8",
    )
    model = build(
        '(float[n,4] x) => (float[n,2] y) { a = MatMul(x, w1) b = com.microsoft.CDist<metric="euclidean">(a, w2) '
        "y = MatMul(b, w3) }",
        normal(w1=(4, 5), w2=(6, 5), w3=(6, 2)),
        domains={"com.microsoft": 1},
        check=False,
    )
    assert certified(model).groups == ()
    found = inspect(model, certify=True, operators=path)
    assert found.certificate is not None
    assert found.certificate.passed
    assert {g.size for g in found.groups} == {5, 6}


def test_the_example_of_the_documentation_is_valid(checkout: Path, tmp_path: Path) -> None:
    text = (checkout / "docs" / "operators.md").read_text(encoding="utf-8")
    for index, block in enumerate(text.split("```yaml\n")[1:]):
        path = tmp_path / f"{index}.yaml"
        path.write_text(block.split("```")[0], encoding="utf-8")
        assert read_operators(path)


def test_an_unknown_operator_is_fixed() -> None:
    model = build(
        "(float[n,4] x) => (float[n,2] y) { a = MatMul(x, w1) b = com.microsoft.Trilu(a) y = MatMul(b, w2) }",
        normal(w1=(4, 5), w2=(5, 2)),
        domains={"com.microsoft": 1},
        check=False,
    )
    found = certified(model)
    assert found.groups == ()
    assert any("com.microsoft::Trilu is not described" in f.reason for f in found.fixed)


def test_quantised_weights_are_learned_tensors() -> None:
    """int8 weights with a scale for each output channel: scale, zero point and bias follow the channel."""
    rng = np.random.default_rng(0)
    graph = """(float[n,4] x) => (float[n,2] y) {
        w = DequantizeLinear<axis=1>(wq, ws, wz) a = MatMul(x, w) b = Relu(a) y = MatMul(b, w2)
    }"""
    weights: dict[str, NDArray[Any]] = {
        "wq": rng.integers(-90, 90, (4, 5), dtype=np.int8),
        "ws": rng.uniform(0.01, 0.02, 5).astype(np.float32),
        "wz": rng.integers(-5, 5, 5, dtype=np.int8),
        **normal(w2=(5, 2)),
    }
    assert certified_groups(build(graph, weights)) == {group(5, ("wq", 1), ("ws", 0), ("wz", 0), ("w2", 0))}
