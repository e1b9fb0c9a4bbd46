"""Every operator that is described is proved on a small model of its own; those that are fixed leave nothing free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmerge import inspect
from onnxmerge.axes.cells import Cells
from onnxmerge.axes.node_context import Findings, NodeContext
from onnxmerge.axes.operators import OperatorSpec, builtin_operators
from tests.axes.operator_cases import CASES
from tests.axes.operator_hints import HINTS, MICROSOFT
from tests.axes.operator_models import NEWEST, Case, Hints, elementwise, floats, from_signature
from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import certified, free_axes, groups
from tests.graphs import build, normal

Key = tuple[str, str, int]
"""Domain, name, place of the entry among those of the operator."""

NO_KERNEL = "ONNX Runtime has no kernel for the CPU"
NEWER = "of an opset that ONNX Runtime does not run yet"
ELSEWHERE: Mapping[Key, str] = {
    (MICROSOFT, "BiasAdd", 0): NO_KERNEL,
    (MICROSOFT, "BiasSplitGelu", 0): NO_KERNEL,
    (MICROSOFT, "RelativePositionBias", 0): NO_KERNEL,
    (MICROSOFT, "GemmFastGelu", 0): NO_KERNEL,
    (MICROSOFT, "GroupNorm", 0): NO_KERNEL,
    (MICROSOFT, "GroupNorm", 1): NO_KERNEL,
    (MICROSOFT, "NhwcConv", 0): NO_KERNEL,
    (MICROSOFT, "NhwcFusedConv", 0): NO_KERNEL,
    (MICROSOFT, "PackedAttention", 0): NO_KERNEL,
    (MICROSOFT, "SkipGroupNorm", 0): NO_KERNEL,
    ("", "Swish", 0): NO_KERNEL,
    ("", "LSTM", 1): "layout 1 is not implemented for the CPU",
    ("", "GRU", 1): "layout 1 is not implemented for the CPU",
    ("", "RNN", 1): "layout 1 is not implemented for the CPU",
    ("", "CausalConvWithState", 0): NEWER,
    ("", "LinearAttention", 0): NEWER,
    ("", "LinearAttention", 1): NEWER,
    ("", "SwiGLU", 0): NEWER,
}
"""Descriptions that cannot be proved here, and why."""


def _entries() -> dict[Key, OperatorSpec]:
    return {
        (domain, name, index): entry
        for (domain, name), entries in builtin_operators().items()
        for index, entry in enumerate(entries)
    }


ENTRIES = _entries()
DERIVED = [key for key, entry in ENTRIES.items() if entry.elementwise or entry.inputs]
FROZEN = [key for key, entry in ENTRIES.items() if entry.frozen is not None]
REST = [key for key in ENTRIES if key not in {*DERIVED, *FROZEN}]


def derived(key: Key) -> Case:
    domain, entry = key[0], ENTRIES[key]
    return (elementwise if entry.elementwise else from_signature)(domain, entry, HINTS.get(key, Hints()))


def prove(case: Case) -> None:
    """The units that should move do, no others, and the network does not notice."""
    found = certified(case.model())
    moved = {(case.places[name], axis) for name, axis in free_axes(found) if name in case.places}
    assert moved == case.free
    assert {("beside1", 1), ("beside2", 0)} <= free_axes(found)


@pytest.mark.parametrize("key", [key for key in DERIVED if key not in ELSEWHERE], ids=str)
def test_described_operators(key: Key) -> None:
    prove(derived(key))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if (case.domain, case.name, 0) not in ELSEWHERE])
def test_operators_with_a_rule_of_their_own_and_variants(name: str) -> None:
    prove(CASES[name])


@pytest.mark.parametrize("key", REST, ids=str)
def test_every_rule_has_a_model(key: Key) -> None:
    assert any((case.domain, case.name) == key[:2] for case in CASES.values()) or key in ELSEWHERE


@pytest.mark.parametrize("key", ELSEWHERE, ids=str)
def test_what_cannot_be_proved_here_still_cannot(key: Key) -> None:
    """Once ONNX Runtime runs one of these, it comes off the list and is proved like any other."""
    if ELSEWHERE[key] == NEWER:
        assert onnx.defs.get_schema(key[1], onnx.defs.onnx_opset_version(), key[0]).since_version > NEWEST
        return
    case = next(case for case in CASES.values() if case.name == key[1]) if key in REST else derived(key)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|layout_ == 0"):
        case.model()


def test_models_are_of_the_newest_opset() -> None:
    case = Case("Relu", [floats(2)])
    assert case.model().opset_import[0].version == NEWEST
    with pytest.raises(Exception, match="opset"):
        replace(case, opset=NEWEST + 1).model()


@pytest.mark.parametrize("key", FROZEN, ids=str)
def test_fixed_operators_leave_nothing_free(key: Key) -> None:
    cells = Cells()
    names = ("a", "b", "c")
    axes = {name: (cells.new(3), cells.new(4)) for name in names}
    node = ir.node(key[1], [ir.val(name) for name in names], domain=key[0])
    node.outputs[0].name = "y"
    shapes = dict.fromkeys((*names, "y"), (3, 4))
    context = NodeContext(node, cells, axes, shapes, values={}, partly={}, opset=21, findings=Findings())
    (made,) = ENTRIES[key].apply(context)
    assert made is not None
    assert all(cells.fixed(cell) == ENTRIES[key].frozen for found in (*axes.values(), made) for cell in found)


_LENGTHS = {"past": np.array([2], np.int32), "all": np.array(3, np.int32)}
SHARED = {
    "Attention": ("b = Attention<q_num_heads=4, kv_num_heads=2>(q, k, k)", 23),
    "GroupQueryAttention": (
        "b, c, d = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, k, , , past, all)",
        21,
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_attention_whose_keys_are_its_values(name: str) -> None:
    """Then one space stands on both sides of the scores, and yet nothing that they carry may vary with it."""
    text, opset = SHARED[name]
    model = build(
        f"(float[1,3,4] x) => (float y) {{ q = MatMul(x, wq) k = MatMul(x, wk) {text} y = MatMul(b, wo) }}",
        {**normal(wq=(4, 32), wk=(4, 16), wo=(32, 2)), **_LENGTHS},
        opset=opset,
        domains={"com.microsoft": 1},
        check=False,
    )
    assert certified_groups(model) == {
        group(2, ("wq", 1), ("wk", 1), ("wo", 0)),
        group(2, ("wq", 1), ("wo", 0), outer=(2,)),
        group(8, ("wq", 1), ("wk", 1), ("wo", 0), outer=(2,)),
    }


FAULTS = {
    "gqa_rot": {(2, ()), (4, (2,)), (8, ()), (16, (2,))},
    "mqa_rot": {(8, ()), (16, ())},
    "mha_rot": {(8, ()), (16, (8,))},
    "gqa_past": {(4, (2,))},
    "gqa_pastrot": {(4, (2,))},
}
"""Groups by size and what they vary with: a cache that the network is given fixes what it holds."""


@pytest.mark.parametrize("name", FAULTS)
def test_grouped_query_attention_that_failed(name: str, shared: Path) -> None:
    found = inspect(shared / "faults" / f"{name}.onnx", certify=True)
    assert found.certificate is not None
    assert found.certificate.passed
    assert {(size, outer) for size, outer, _ in groups(found)} == FAULTS[name]
