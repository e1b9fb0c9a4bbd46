"""Models that are good, as exporters and merges leave them, pass; the broken ones stand in broken.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxmerge
from onnxmerge import CheckReport
from tests.zoo.test_zoo import FAST
from tests.zoo.topology import FOLDER, SUFFIX, load_topology

CORPUS = (
    "div_akiki_vad",
    "div_jarvis_if_multi",
    "div_mscn_dual",
    "div_slovorez_fp16",
    "div_unet_carvana",
    "div_vit_ibp",
    "div_wakehubert_int8",
    "fam_acasxu__acasxu_ACASXU_run2a_1_1_batch_2000",
    "fam_atspm_pair__s0",
    "fam_cifar_width_neg__nets_cifar10_small",
)
"""Published models that are small."""


def require_good(report: CheckReport) -> None:
    assert report.passed, report.failures
    asked = {finding.id for finding in report.findings if finding.verdict == "pass"}
    assert {"integrity.graph", "integrity.loads", "certificate.groups", "behaviour.deterministic"} <= asked


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_of_the_zoo(name: str) -> None:
    require_good(onnxmerge.check(load_topology(FOLDER / f"{name}{SUFFIX}"), certify=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
def test_of_the_corpus(name: str, shared: Path) -> None:
    require_good(onnxmerge.check(shared / "corpus" / f"{name}.onnx", certify=True))


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("rebasin", "act-align")]


@pytest.mark.parametrize("method", ["average", *SLOW])
def test_a_merge_made_again_from_its_parents(method: str, digits: Path, tmp_path: Path) -> None:
    parents, data = [digits / "a.onnx", digits / "b.onnx"], str(digits / "calib.npz")
    calibration = None if method == "average" else data
    merged = onnxmerge.merge(parents, calibration=calibration, method=method, provider="cpu").save(tmp_path / "m.onnx")
    report = onnxmerge.check(merged, against=parents, data=data, certify=True, reproduce=True, min_runtime="1.18")
    require_good(report)
    assert {"provenance.reproduce", "provenance.weights", "provenance.parents"} <= {
        finding.id for finding in report.findings if finding.verdict == "pass"
    }
