"""Models of other people, as exporters wrote them, pass: a gate that finds fault with what is good is switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxmerge
from tests.zoo.test_zoo import FAST
from tests.zoo.topology import FOLDER, SUFFIX, load_topology


@pytest.mark.parametrize("name", FAST)
def test_a_model_of_the_zoo_passes(name: str) -> None:
    report = onnxmerge.check(load_topology(FOLDER / f"{name}{SUFFIX}"))
    assert report.passed, report.failures


@pytest.mark.slow
def test_every_model_of_the_corpus_passes(shared: Path) -> None:
    failing = {
        path.name: report.failures
        for path in sorted((shared / "corpus").glob("*.onnx"))
        if not (report := onnxmerge.check(path)).passed
    }
    assert failing == {}
