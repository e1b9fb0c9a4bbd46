"""A folder of images as calibration data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from onnxmerge.calibration.chunks import Chunks, Feed
from onnxmerge.calibration.specs import InputSpec, conform_all
from onnxmerge.errors import InputError, UsageError
from onnxmerge.files import named
from onnxmerge.memory import require_room
from onnxmerge.text import reason, shown
from onnxmerge.types import Array

Layout = Literal["nchw", "nhwc"]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What Pillow may take a file for, whatever its name: others (EPS) start programs."""

_DEEP = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
"""Pillow's modes of one band that its conversions cut off at 255."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How an image becomes an input.

    ``size`` (height, width) is the model's own where it declares one. Values are scaled from their own range (8 bits by
    255, 16 bits by 65535, floats are to lie in 0..1), then (v - mean) / std per channel; an integer input takes the
    bytes as they are. ``layout`` is read off the input's channels where not given. Of an animation the first frame is
    taken; transparency is left out unless the model takes 4 channels.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Layout | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Recipe:
    """The options, settled for one input."""

    spec: InputSpec
    size: tuple[int, int]
    mode: str
    layout: Layout
    mean: Array | None
    std: Array | None

    def load(self, path: Path) -> Array:
        """One image as [1, C, H, W] or [1, H, W, C]. Raises InputError where the file is no image."""
        height, width = self.size
        image = _fitted(_opened(path, self.mode), width, height)
        pixels: Array = np.asarray(image).reshape(height, width, -1)
        if image.mode == "F":
            pixels = _of_bands(pixels, self.mode)
        if self.spec.dtype.kind in "iu":
            pixels = np.rint(255 * pixels).astype(np.uint8) if image.mode == "F" else pixels
        else:
            pixels = pixels.astype(np.float32) / np.float32(1 if image.mode == "F" else 255)
            if self.mean is not None:
                pixels = pixels - self.mean
            if self.std is not None:
                pixels = pixels / self.std
        return pixels[None] if self.layout == "nhwc" else pixels.transpose(2, 0, 1)[None]


def _opened(path: Path, mode: str) -> Image.Image:
    """The first frame of an image file, upright: in ``mode``, or in mode F from 0 to 1 where it is of more than 8 bits.

    Raises InputError where the file is no image in one of FORMATS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's advice is no fault of the file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode in _DEEP:
                    return _deep(np.asarray(image), image.mode, str(opened.format))
                return image.convert(mode)
    except Exception as error:  # Pillow raises almost anything for a damaged file
        raise InputError(f"{named(path)}: cannot be read as an image: {reason(error)}") from error


def _deep(values: Array, mode: str, kind: str) -> Image.Image:
    """One band of more than 8 bits, scaled from its own range to 0..1. Raises ValueError where that is not known."""
    if mode == "I" and kind != "PPM":  # Pillow scales what a PPM holds to 16 bits
        raise ValueError("its 32-bit integers have no known range; save it with 8 or 16 bits, or as an array")
    scaled = values.astype(np.float32) / np.float32(1 if mode == "F" else 65535)
    if not ((scaled >= 0) & (scaled <= 1)).all():
        raise ValueError("it holds numbers beyond 0..1, whose range is not known; scale it, or save it as an array")
    return Image.fromarray(scaled)


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def _of_bands(grey: Array, mode: str) -> Array:
    """A grey image [H, W, 1] with the bands of a mode; opaque where it has an alpha."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    full = np.repeat(grey, bands, axis=2)
    if mode == "RGBA":
        full[..., 3] = 1
    return full


def image_chunks(
    folder: Path, files: Sequence[Path], specs: Sequence[InputSpec], options: ImageOptions, samples: int | None
) -> Chunks:
    """One feed per image; with ``samples``, so many of the files, evenly spaced (folders are often sorted by class).

    Each is cropped to the model's aspect ratio around its centre and scaled, bilinearly.

    Raises:
        InputError: the model does not take one image per sample.
        UsageError: an option is missing, or does not suit the input.

    """
    recipe = _settle(specs, options, folder)
    count = len(files) if samples is None else min(samples, len(files))
    chosen = [files[index * len(files) // count] for index in range(count)]

    def start() -> Iterator[Feed]:
        for path in chosen:
            yield conform_all({recipe.spec.name: recipe.load(path)}, specs, str(path), batched=True)

    def between(first: int, last: int) -> Feed:
        name = recipe.spec.name
        several = [
            conform_all({name: recipe.load(path)}, specs, str(path), batched=True) for path in chosen[first:last]
        ]
        return {name: np.concatenate([own[name] for own in several])}

    return Chunks(named(folder), start, count, between, images=True)


def _settle(specs: Sequence[InputSpec], options: ImageOptions, folder: Path) -> _Recipe:
    spec = specs[0]
    for name, values in (("mean", options.mean), ("std", options.std)):
        if values is not None and not np.isfinite(values).all():
            raise UsageError(f"--{name} takes finite numbers, found {shown(values)}")
    if len(specs) > 1 or spec.shape is None or len(spec.shape) != 4:
        raise InputError(
            f"{folder}: images suit a model with one input of rank 4, this one takes {', '.join(map(str, specs))}; "
            "prepare arrays (.npz) or a script instead"
        )
    layout = options.layout or ("nhwc" if spec.shape[1] not in {1, 3} and spec.shape[3] in {1, 3} else "nchw")
    channels, height, width = spec.shape[1:] if layout == "nchw" else (spec.shape[3], *spec.shape[1:3])
    modes = {None: "RGB", 1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise InputError(f"{folder}: input {spec} has {channels} channels in layout {layout}; images have 1, 3 or 4")
    size = options.size or ((height, width) if height and width else None)
    if size is None:
        raise UsageError(f"input {spec} does not fix the image size; pass --image-size")
    if spec.dtype.kind in "iu" and (options.mean or options.std):
        raise UsageError(f"input {spec} takes the bytes of an image: --mean and --std do not apply")
    bands = 3 if channels is None else channels
    require_room(4 * bands * size[0] * size[1], f"an image of {size[0]}x{size[1]}")
    mean, std = (_per_channel(values, bands, name) for values, name in ((options.mean, "mean"), (options.std, "std")))
    if std is not None and not (std > 0).all():
        raise UsageError(f"--std must be positive, found {options.std}")
    return _Recipe(spec, size, modes[channels], layout, mean, std)


def _per_channel(values: tuple[float, ...] | None, channels: int, name: str) -> Array | None:
    if values is None:
        return None
    if len(values) not in {1, channels}:
        raise UsageError(f"--{name} needs 1 or {channels} numbers, found {len(values)}")
    return np.array(values, np.float32)
