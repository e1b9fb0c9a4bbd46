"""Tasks on small images that need no labels from outside, for tools/heterogeneous.py and tools/train_encoders.py.

Images are float32 [n, 3, side, side], normalised. Each task says what a network is given in place of an image, and what
it is to answer: a class, or numbers [n, columns]. Needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Answers = NDArray[Any]

NOISE = 0.5
"""Standard deviation of what is added for denoising; that of the pixels is 1."""

HOLE = 16
"""Side of the square in the middle that is cut out for inpainting."""

SMOOTH: Images = np.array([0.25, 0.5, 0.25], np.float32)
STEP: Images = np.array([-0.5, 0, 0.5], np.float32)
"""The two factors of Sobel's filters."""


@dataclass(frozen=True, slots=True)
class VisionTask:
    """What a network learns.

    ``pose(images, labels, rng)`` gives what it is given [n, 3, side, side], and what is right: classes int64 [n] of
    ``classes``, or float32 [n, channels * side * side] of an image of ``channels``, ``side`` pixels wide.
    """

    summary: str
    pose: Callable[[Images, Answers, np.random.Generator], tuple[Images, Answers]]
    classes: int = 0
    channels: int = 0
    side: int = 32


def _classes(images: Images, labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    return images, labels


def _autoencode(images: Images, _labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    return images, _flat(images)


def _denoise(images: Images, _labels: Answers, rng: np.random.Generator) -> tuple[Images, Answers]:
    noise = rng.standard_normal(images.shape, np.float32)
    return images + np.float32(NOISE) * noise, _flat(images)


def _colourise(images: Images, _labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    grey = images.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(np.broadcast_to(grey, images.shape)), _flat(images - grey)


def _edges(images: Images, _labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    across, down = gradient(images.mean(axis=1))
    return images, _flat(np.hypot(across, down))


def _keypoints(images: Images, _labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    return images, _flat(corners(images.mean(axis=1)))


def _rotation(images: Images, _labels: Answers, rng: np.random.Generator) -> tuple[Images, Answers]:
    turns = rng.integers(0, 4, len(images))
    given = np.stack([np.rot90(image, turn, axes=(1, 2)) for image, turn in zip(images, turns, strict=True)])
    return np.ascontiguousarray(given), turns


def _inpaint(images: Images, _labels: Answers, _rng: np.random.Generator) -> tuple[Images, Answers]:
    first = (images.shape[2] - HOLE) // 2
    hole = (..., slice(first, first + HOLE), slice(first, first + HOLE))
    given = images.copy()
    given[hole] = 0
    return given, _flat(images[hole])


def gradient(grey: Images) -> tuple[Images, Images]:
    """Sobel's derivatives of grey images [n, side, side], across and down; pixels at the border are repeated."""
    return _filtered(_filtered(grey, STEP, 2), SMOOTH, 1), _filtered(_filtered(grey, STEP, 1), SMOOTH, 2)


def corners(grey: Images) -> Images:
    """How much of a corner each pixel of grey images [n, side, side] is.

    The square root of the smaller eigenvalue of the gradients' second moments around the pixel. Source: Shi and Tomasi,
    Good Features to Track, CVPR 1994.
    """
    across, down = gradient(grey)
    xx, yy, xy = (_filtered(_filtered(each, SMOOTH, 1), SMOOTH, 2) for each in (across**2, down**2, across * down))
    smaller = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    return np.asarray(np.sqrt(np.maximum(smaller, 0)))


def _filtered(images: Images, weights: Images, axis: int) -> Images:
    """Images [n, side, side] correlated with three weights along an axis."""
    side = images.shape[axis]
    padded = np.pad(images, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
    parts = (weight * padded.take(range(at, at + side), axis) for at, weight in enumerate(weights))
    return np.asarray(sum(parts), np.float32)


def _flat(images: Images) -> Images:
    return images.reshape(len(images), -1)


TASKS: Mapping[str, VisionTask] = {
    "classes": VisionTask("the ten classes of CIFAR-10", _classes, classes=10),
    "autoencode": VisionTask("the image itself", _autoencode, channels=3),
    "denoise": VisionTask(f"the image, from one with noise of {NOISE:g} deviations", _denoise, channels=3),
    "colourise": VisionTask("what colours differ from grey by, from the grey image", _colourise, channels=3),
    "edges": VisionTask("the length of Sobel's gradient", _edges, channels=1),
    "keypoints": VisionTask("the response of a corner detector (Shi and Tomasi)", _keypoints, channels=1),
    "rotation": VisionTask("by how many quarters the image was turned", _rotation, classes=4),
    "inpaint": VisionTask(f"the middle {HOLE} x {HOLE} pixels, which are missing", _inpaint, channels=3, side=HOLE),
}
