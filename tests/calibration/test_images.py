"""Folders of images as calibration data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import InputSpec
from onnxmerge.errors import InputError, UsageError

F32 = np.dtype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, red in (("a/1.png", 0), ("a/2.png", 100), ("b/3.png", 200), ("b/4.png", 255)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 4), (red, 51, 0)).save(path)
    return tmp_path


def first(folder: Path, spec: InputSpec, **options: Any) -> Any:
    feed = next(iter(open_source(folder, (spec,), **options)))
    assert feed is not None
    return feed[spec.name]


def test_planes_first_scaled_and_normalised(folder: Path) -> None:
    spec = InputSpec("x", (None, 3, 4, 6), F32)
    found = first(folder, spec, mean=(0.5, 0.1, 0), std=(2,))
    assert found.shape == (4, 3, 4, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0, 0, 0], (np.array([0, 100, 200, 255]) / 255 - 0.5) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], (0.2 - 0.1) / 2, rtol=1e-5)


def test_channels_last_bytes_and_grey(folder: Path) -> None:
    last = first(folder, InputSpec("x", (None, None, None, 3), F32), image_size=5)
    assert last.shape == (4, 5, 5, 3)
    raw = first(folder, InputSpec("x", (None, 3, 4, 8), np.dtype(np.uint8)))
    assert raw[1, 0, 0, 0] == 100
    assert first(folder, InputSpec("x", (None, 1, 4, 4), F32)).shape == (4, 1, 4, 4)
    assert first(folder, InputSpec("x", (None, None, None, None), F32), image_size=(2, 3), layout="nhwc").shape == (
        4,
        2,
        3,
        3,
    )


def test_samples_are_spread_over_the_folder(folder: Path) -> None:
    found = first(folder, InputSpec("x", (None, 3, 4, 8), np.dtype(np.uint8)), samples=2)
    assert found[:, 0, 0, 0].tolist() == [0, 200]


def test_damaged_image(folder: Path) -> None:
    path = folder / "b" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"3\.png: cannot be read as an image"):
        first(folder, InputSpec("x", (None, 3, 4, 8), F32))


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        (InputSpec("x", (None, 3, None, None), F32), {}, UsageError, "pass --image-size"),
        (InputSpec("x", (None, 3, 4, 4), F32), {"mean": (1, 2)}, UsageError, "--mean needs 1 or 3 numbers"),
        (InputSpec("x", (None, 3, 4, 4), F32), {"std": (0,)}, UsageError, "must be positive"),
        (InputSpec("x", (None, 3, 4, 4), np.dtype(np.uint8)), {"std": (1,)}, UsageError, "do not apply"),
        (InputSpec("x", (None, 7, 4, 4), F32), {}, InputError, "7 channels"),
        (InputSpec("x", (None, 12), F32), {}, InputError, "one input of rank 4"),
        (InputSpec("x", (None, 3, 5, 5), F32), {"image_size": 4}, InputError, "found shape 1x3x4x4"),
        (InputSpec("x", (None, 3, 5, 5), F32), {"image_size": 0}, UsageError, "must be positive"),
    ],
)
def test_what_does_not_suit(folder: Path, spec: InputSpec, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        first(folder, spec, **options)
