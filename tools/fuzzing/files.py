"""Calibration data, labels, images and recipes, written as they should be and then broken."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from tools.fuzzing.models import NUMBERS, TEXTS, scrambled

Array = NDArray[Any]


def broken(make: Callable[[Random], bytes], random: Random) -> bytes:
    """A file, one time out of four as it is made and else scrambled."""
    data = make(random)
    return data if random.random() < 0.25 else scrambled(data, random)


def array_file(random: Random) -> bytes:
    """A .npy file of any type, or one whose header says something else than its data."""
    buffer = io.BytesIO()
    np.save(buffer, _array(random), allow_pickle=True)
    if random.random() < 0.3:
        header = random.choice(
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d)}",
                "{'descr': '|O', 'fortran_order': False, 'shape': (%d,), 'more': %d}",
                "{'descr': [('a', '<f4', (%d,))], 'fortran_order': 1, 'shape': (%d,)}",
                "%d" + "[" * 5000 + "%d",
            )
        )
        text = (header % (random.choice(NUMBERS), random.choice(NUMBERS))).encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text + b"\0" * 64
    return buffer.getvalue()


def archive(random: Random) -> bytes:
    """A .npz file: one array for each of some names, compressed in any way."""
    buffer = io.BytesIO()
    compression = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name in random.choice((["images"], ["x"], ["images", "labels"], ["x", "x2"], ["../a", "/b"], [""], [])):
            made.writestr(f"{name}.npy", array_file(random))
    return buffer.getvalue()


def labels(random: Random) -> bytes:
    """Labels as text: numbers, and what is none."""
    entries = ("0", "1", "4", "9", "-1", "1e999", "nan", "", "1;2", "cat", "1,2,3", "9" * 400, "\0", "é", "0x1f", "1_0")
    count = random.choice((0, 1, 20, 128, 5000))
    return "\n".join(random.choice(entries[: random.randrange(1, len(entries))]) for _ in range(count)).encode()


def image(random: Random) -> bytes:
    """A small image of any mode and format."""
    mode = random.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"))
    made = Image.new(mode, (random.choice((1, 8, 33)), random.choice((1, 8, 33))))
    for form in random.sample(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"), 7):
        buffer = io.BytesIO()
        try:
            made.save(buffer, form)
        except (OSError, ValueError):  # a format has not every mode
            continue
        return buffer.getvalue()
    return b""


def recipe(random: Random) -> bytes:
    """A recipe in which keys, values and kinds of values have been exchanged."""
    document: dict[str, Any] = {
        "models": ["a.onnx", "b.onnx"], "calibration": {"data": "calib.npz", "samples": 32}, "output": "merged.onnx",
        "method": "mudsc-align", "alpha": 0.5, "seed": 1, "groups": [{"match": "p0", "alpha": 0.9}], "weights": [1, 2],
        "tasks": ["low=0-4", "high=5-9"], "labels": "labels.txt", "repair": "none", "dry_run": True,
    }  # fmt: skip
    for _ in range(random.randrange(1, 5)):
        key = random.choice((*document, "width", "share", "until", "heads", "base", "vectors", "zip_a", *TEXTS))
        kind = random.randrange(4)
        if kind == 0:
            document.pop(key, None)
        elif kind == 1:
            document[key] = _value(random)
        elif kind == 2 and isinstance(document.get(key), dict):
            document[key][random.choice(("data", "image_size", "mean", "std", "samples", *TEXTS))] = _value(random)
        elif document:
            document[key] = document[random.choice(list(document))]
    text = yaml.safe_dump(document, allow_unicode=True)
    odd = (
        "\nx: &a [*a]\n", "\n? [1, 2]\n: 3\n", "\nd: 2026-99-99\n", "\nn: " + "[" * 2000, "\nseed: 1" + "0" * 500,
        "\n<<: 1\n", "\na: !!python/object:os.system x\n", "\nalpha: .nan\n", "\na: &b [1]\nc: [*b, *b]\n", "\n\t:\n",
        "\nf: 1:2:3\n", "\nb: !!binary abc\n", "\ns: !!set {1, 2}\n", "\n--- \nmodels: x\n",
    )  # fmt: skip
    return (text + (random.choice(odd) if random.random() < 0.4 else "")).encode()


def _value(random: Random) -> Any:
    odd: list[Any] = [None, True, 0.5, -1.5, float("nan"), float("inf"), [], {}, [[]], {"a": {}}, [None], b"x"]
    value = random.choice([*odd, *NUMBERS, *TEXTS])
    return [value] * random.randrange(4) if random.random() < 0.2 else value


def _array(random: Random) -> Array:
    shapes = ((64, 8, 8), (20, 1, 8, 8), (32, 64), (4, 4), (2, 3, 8, 8), (1,), (), (0, 64), (3, 0), (1000, 1))
    shape = random.choice(shapes)
    kind = random.choice(("f4", "f8", "f2", "i8", "u1", "?", "c8", "O", "S4", "U4", "M8[s]", "V3", ">f4", "f4,i4"))
    values = np.random.default_rng(random.randrange(2**32)).standard_normal(shape)
    if random.random() < 0.1:
        values = values * np.nan
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # nan is no integer
            return values.astype(kind)
    except (TypeError, ValueError):
        return np.zeros(shape, kind)
