"""Real models of other people: each types and passes its certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmerge import inspect

FREE = {
    "div_mscn_dual": 0.99,
    "div_plcmos": 0.99,
    "div_slovorez_fp16": 0.99,
    "div_unet_carvana": 0.99,
    "div_vit_ibp": 0.99,
    "div_wakehubert_int8": 0.99,
    "div_acopf": 0.7,
    "div_lyapunov_quad2d": 0.7,
    "div_akiki_vad": 0.6,
    "div_swift_f0": 0.7,
    "fam_dnsmos_p835__std": 0.6,
    "fam_romanizer_enc__arabic": 0.7,
    "fam_same_weights_cls__slim": 0.99,
}
"""Free share of weight elements at least; what is missing crosses the border, is a spectrum, or is inside an If."""


@pytest.mark.slow
def test_every_model_of_the_corpus_passes_its_certificate(shared: Path) -> None:
    for path in sorted((shared / "corpus").glob("*.onnx")):
        found = inspect(path, certify=True)
        assert found.certificate is not None
        assert found.certificate.passed, f"{path.name}: {found.certificate.failure}"
        assert found.coverage.free_elements >= FREE.get(path.stem, 0), path.name
