"""Pictures of pixels of a landscape, and what is said where they cannot be drawn."""

from __future__ import annotations

import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image

import onnxmerge
from onnxmerge import Landscape, UsageError
from onnxmerge.report.landscape_png import landscape_png
from tests.graphs import build, normal

GRAPH = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"


def seen(points: int = 3, merged: int = 2) -> Landscape:
    one, other, third = (build(GRAPH, normal(w=(4, 5), v=(5, 3), seed=seed)) for seed in (0, 1, merged))
    x = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    return onnxmerge.landscape(one, other, third, {"x": x}, method="rebasin", points=points)


@pytest.mark.slow  # matplotlib looks for fonts when it draws for the first time
def test_the_same_losses_give_the_same_picture() -> None:
    found = seen()
    picture = landscape_png(found)
    assert picture == landscape_png(found)
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.size) == ("PNG", (1200, 1200))
        assert len(set(image.convert("RGB").resize((60, 60)).getdata())) > 9


@pytest.mark.slow  # matplotlib looks for fonts when it draws for the first time
def test_three_models_on_a_line_have_no_plane_to_draw() -> None:
    with Image.open(io.BytesIO(landscape_png(seen(merged=0)))) as image:
        assert image.size == (600, 600)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {"matplotlib": None}.get)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'onnxmerge\[plot\]'"):
        landscape_png(seen(points=2))
