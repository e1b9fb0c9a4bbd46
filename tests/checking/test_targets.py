"""The tables of targets, read as gates read them."""

from __future__ import annotations

import pytest

from onnxmerge.checking.targets import runtime, target, target_names
from onnxmerge.errors import UsageError


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("1.12", "FastGelu", "QuickGelu"),
        ("1.14.1", "QuickGelu", "MatMulNBits"),
        ("1.16", "MatMulNBits", "MoE"),
        ("1.28", "MatMulNBitsMlp", "GatedAdd"),
        ("1.32", "GatedAdd", "Frobnicate"),
    ],
)
def test_a_runtime_has_its_own_operators_and_those_before(version: str, has: str, lacks: str) -> None:
    known = runtime(version).domains["com.microsoft"]
    assert known is not None
    assert has in known
    assert lacks not in known


def test_every_table_can_be_read() -> None:
    assert target_names() == ("onnxruntime-web", "openvino", "tensorrt")
    for name in target_names():
        assert target(name).opsets[0] < target(name).opsets[1]
    with pytest.raises(UsageError, match=r"from 1\.12 to 1\.32"):
        runtime("1.11")
