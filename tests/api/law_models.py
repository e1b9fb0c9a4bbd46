"""The models that are held to the law, each with data: the corpus, the pairs and a third of the zoo."""

from __future__ import annotations

import io
import json
import lzma
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from onnxmerge.model.read import read_network
from tests.api.law import Feed, Model, model_of
from tests.conftest import CHECKOUT
from tests.zoo.topology import available, label, load_topology

SHARED = Path(os.environ.get("ONNXMERGE_SHARED") or CHECKOUT.parent / "shared").resolve()
"""Where real models are, as in the fixture ``shared``: tests are named after them before any fixture runs."""

SAMPLES = 32
"""Calibration samples for each model, at most."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model by name, and how to read it with its data; ``size`` is bytes of a file or weights of a topology."""

    name: str
    size: int
    load: Callable[[], Model]


def cases(shared: Path) -> list[Case]:
    """All of them: ``real`` ones and ``zoo``."""
    return [*real(shared), *zoo()]


def real(shared: Path) -> list[Case]:
    """All models of the corpus and of the pairs, small ones first; none where there is no such folder."""
    return _sorted(chain(_corpus(shared), _pairs(shared)))


def zoo() -> list[Case]:
    """A third of the stored topologies: every second of the smaller two thirds, which differ no less in kind."""
    every = _sorted(Case(label(path), _weights(path), partial(_drawn, path)) for path in available())
    return every[: math.ceil(2 * len(every) / 3) : 2]


def _weights(path: Path) -> int:
    """The elements of all initializers of a stored topology."""
    graph = onnx.ModelProto.FromString(lzma.decompress(path.read_bytes())).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)


def _sorted(found: Iterable[Case]) -> list[Case]:
    return sorted(found, key=lambda case: (case.size, case.name))


def _drawn(path: Path) -> Model:
    return model_of(load_topology(path), samples=SAMPLES)


def _corpus(shared: Path) -> Iterator[Case]:
    for path in (shared / "corpus").glob("*.onnx"):
        yield Case(f"corpus/{path.stem}", path.stat().st_size, partial(_of_corpus, path))


def _of_corpus(path: Path) -> Model:
    if not path.name.startswith("fam_wake27"):
        return model_of(path, samples=SAMPLES)
    words = np.load(path.parent / "wake_features.npz")
    windows = [words[name][start : start + 16] for name in words.files for start in (0, 8)]
    [read] = read_network(path).graph.inputs
    return model_of(path, [{str(read.name): window[None]} for window in windows[:SAMPLES]])


def _pairs(shared: Path) -> Iterator[Case]:
    for path in (shared / "pairs").glob("*/*.onnx"):
        yield Case(f"pairs/{path.parent.name}/{path.stem}", path.stat().st_size, partial(_of_pair, path))


def _of_pair(path: Path) -> Model:
    pair = json.loads((path.parent / "pair.json").read_text())
    data = np.load(path.parents[2] / "data" / f"{pair['data']}.npz")
    images = _images(data, data["calib"][:SAMPLES])
    feeds: list[Feed] = [{pair["input"]: batch} for batch in np.split(images, len(images) // 8)]
    return model_of(path, feeds)


def _images(data: Any, indices: NDArray[Any]) -> NDArray[np.float32]:
    """Images [n, ...] with zero mean and unit deviation."""
    if "x_train" in data:
        found = data["x_train"][indices].astype(np.float32)[:, None]
    else:
        ends = data["ends_train"]
        starts = np.concatenate([[0], ends[:-1]])
        files = [data["jpeg_train"][starts[each] : ends[each]].tobytes() for each in indices]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        found = pixels.astype(np.float32).transpose(0, 3, 1, 2)
    return np.asarray((found - found.mean()) / found.std(), np.float32)
