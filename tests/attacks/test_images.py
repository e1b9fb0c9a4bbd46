"""Folders of images: every kind of pixel gives the same picture, and what is no picture is named."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import InputSpec
from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import RUN, write_pair
from tests.command_line import Cli

GREY = np.linspace(0, 255, 16).astype(np.uint8).reshape(4, 4)
"""What every picture shows."""


def of(name: str, image: Image.Image, **options: Any) -> tuple[str, Callable[[Path], object]]:
    return name, lambda path: image.save(path, **options)


def palette() -> Image.Image:
    return Image.fromarray(GREY).quantize(16)


def transparent() -> Image.Image:
    image = palette()
    image.info["transparency"] = bytes(range(16))
    return image


def turned() -> tuple[str, Callable[[Path], object]]:
    """The picture lying on its side, and a note of which side is up."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return of("x.png", Image.fromarray(np.rot90(GREY)), exif=exif)


def animated(name: str) -> tuple[str, Callable[[Path], object]]:
    more = Image.fromarray(255 - GREY)
    return of(name, Image.fromarray(GREY), save_all=True, append_images=[more], duration=9, **LOSSLESS.get(name, {}))


LOSSLESS = {"x.webp": {"lossless": True}}
KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "grey": of("x.png", Image.fromarray(GREY)),
    "colours": of("x.png", Image.fromarray(GREY).convert("RGB")),
    "16 bits": of("x.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16 bits, TIFF": of("x.tif", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16 bits, PGM": ("x.pgm", lambda path: path.write_bytes(b"P5 4 4 65535\n" + (GREY.astype(">u2") * 257).tobytes())),
    "floats": of("x.tiff", Image.fromarray(GREY.astype(np.float32) / 255)),
    "palette": of("x.gif", palette()),
    "transparent palette": of("x.png", transparent()),
    "grey with alpha": of("x.png", Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (4, 4), 7)])),
    "colours with alpha": of("x.png", Image.merge("RGBA", [Image.fromarray(GREY)] * 3 + [Image.new("L", (4, 4), 7)])),
    "CMYK": of("x.tif", Image.fromarray(GREY).convert("RGB").convert("CMYK")),
    "BMP": of("x.bmp", Image.fromarray(GREY)),
    "WebP": of("x.webp", Image.fromarray(GREY).convert("RGB"), lossless=True),
    "another name": of("x.jpg", Image.fromarray(GREY), format="PNG"),
    "on its side": turned(),
    "animated GIF": animated("x.gif"),
    "animated PNG": animated("x.png"),
    "animated WebP": animated("x.webp"),
    "pages": animated("x.tif"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_pixel_gives_the_same_picture(tmp_path: Path, kind: str, channels: int) -> None:
    name, save = KINDS[kind]
    save(tmp_path / name)
    floats, whole = (
        next(iter(open_source(tmp_path, (InputSpec("x", (None, channels, 4, 4), np.dtype(dtype)),))))["x"][0]
        for dtype in (np.float32, np.uint8)
    )
    np.testing.assert_allclose(floats[0], GREY / 255, atol=1.5 / 255)  # a palette of GIF rounds
    np.testing.assert_allclose(whole[0].astype(int), GREY, atol=1)
    if channels == 4:
        assert np.unique(floats[3]).tolist() in ([1.0], [np.float32(7 / 255)]) or kind == "transparent palette"


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "x.png")
    found = next(iter(open_source(tmp_path, (InputSpec("x", (None, 1, 4, 4), np.dtype(np.float32)),))))["x"][0, 0]
    np.testing.assert_array_equal(found, GREY > 99)


def test_deep_pixels_are_resized_like_others(tmp_path: Path) -> None:
    found = []
    for number, image in enumerate((Image.fromarray(GREY), Image.fromarray(GREY.astype(np.uint16) * 257))):
        folder = tmp_path / str(number)
        folder.mkdir()
        image.save(folder / "x.png")
        spec = InputSpec("x", (None, 3, 7, 9), np.dtype(np.float32))
        found.append(next(iter(open_source(folder, (spec,), mean=(0.5,), std=(0.2, 0.3, 0.4))))["x"])
    np.testing.assert_allclose(found[0], found[1], atol=1 / 255 / 0.2)  # 8 bits are rounded once more


def png(width: int, height: int, data: bytes = b"", *, bits: int = 8) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(owned) (w) file\n"


def images(
    name: str, content: bytes | Callable[[Path], object], *options: object
) -> Callable[[Path], Sequence[object]]:
    def build(folder: Path) -> Sequence[object]:
        write_pair(folder, images=True)
        (folder / "d").mkdir()
        if callable(content):
            content(folder / "d" / name)
        else:
            (folder / "d" / name).write_bytes(content)
        return [*RUN, "--calib", "d", *options]

    return build


BAD: dict[str, tuple[str, bytes | Callable[[Path], object], str]] = {
    "empty": ("x.png", b"", "x.png: cannot be read as an image"),
    "no image": ("x.png", b"hello", "cannot identify image file"),
    "a program": ("x.png", EPS, "cannot identify image file"),
    "another format": ("x.png", b"\x00\x00\x01\x00\x01\x00\x10\x10" + bytes(99), "cannot identify image file"),
    "cut off": ("x.png", png(64, 64, bytes(65 * 64))[:-30], "x.png: cannot be read as an image"),
    "no pixels": ("x.png", png(64, 64), "x.png: cannot be read as an image"),
    "a bomb": ("x.png", png(60_000, 60_000), "decompression bomb"),
    "a small bomb": ("x.png", png(12_000, 12_000), "decompression bomb"),
    "no size": ("x.png", png(0, 0), "x.png: cannot be read as an image"),
    "a huge bitmap": (
        "x.bmp",
        b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 2**30, 2**30, 1, 24, 0) + bytes(99),
        "x.bmp",
    ),
    "a huge PGM": ("x.pgm", b"P5 999999 999999 255\n", "decompression bomb"),
    "digits": ("x.pgm", b"P5 " + b"9" * 5000, "x.pgm: cannot be read as an image"),
    "32 bits": ("x.tif", lambda path: Image.fromarray(GREY.astype(np.int32)).save(path), "no known range"),
    "floats beyond 1": ("x.tif", lambda path: Image.fromarray(GREY.astype(np.float32)).save(path), "beyond 0..1"),
    "NaN": ("x.tif", lambda path: Image.fromarray(GREY * np.float32("nan")).save(path), "beyond 0..1"),
    "pipe": ("x.png", os.mkfifo, "holds no .npy, .npz or image file"),
    "folder": ("x.png", Path.mkdir, "holds no .npy, .npz or image file"),
    "device": ("x.png", lambda path: path.symlink_to("/dev/zero"), "holds no .npy, .npz or image file"),
}
GOOD = png(4, 4, bytes(20))


@attacks(
    *(Attack(kind, images(name, content), says=(said,)) for kind, (name, content, said) in BAD.items()),
    Attack("NaN as mean", images("x.png", GOOD, "--mean", "nan"), 2, ("--mean",)),
    Attack("infinity as std", images("x.png", GOOD, "--std", "inf"), 2, ("--std",)),
    Attack("size of a planet", images("x.png", GOOD, "--image-size", 10_000_000), says=("takes",)),
    Attack("size of many digits", images("x.png", GOOD, "--image-size", "9" * 5000), 2, ("--image-size",)),
)
def test_what_is_refused(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
