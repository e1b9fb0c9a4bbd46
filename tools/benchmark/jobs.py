"""The jobs that are timed: models, data, and how they are merged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.zoo.topology import FOLDER, SUFFIX, load_topology
from tools.benchmark.networks import (
    BERT_BASE,
    DECODER,
    DECODER_10G,
    LENGTH,
    SIDE,
    VIT_B16,
    Transformer,
    bert,
    decoder,
    vit,
)

SHARED = Path(os.environ.get("ONNXMERGE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
"""The folder of real material, for the pairs that were trained."""

SMALL = Transformer(width=64, hidden=128, heads=4, blocks=2, words=256)


@dataclass(frozen=True, slots=True)
class Case:
    """Models of one structure, made in a folder where they are missing, and data for them (None: there is none).

    ``reference`` is what is known of the published implementation on them, ``base`` what they were fine-tuned from.
    """

    models: Callable[[Path, int], list[Path]]
    data: Callable[[Path], Path] | None = None
    reference: Path | None = None
    base: Callable[[Path], Path] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """So many models of a case, merged with the ``options`` of ``onnxmerge run``, on ``samples`` of its data (0: none).

    ``method`` is what the case's reference calls the like.
    """

    name: str
    case: Case
    options: tuple[str, ...]
    samples: int = 0
    models: int = 2
    method: str | None = None


def _drawn(name: str, write: Callable[[Path, int], None]) -> Callable[[Path, int], list[Path]]:
    """Models with weights by seed."""

    def made(folder: Path, count: int) -> list[Path]:
        return [_made(folder / name / f"{seed}.onnx", write, seed) for seed in range(count)]

    return made


def _made(path: Path, write: Callable[[Path, int], None], seed: int) -> Path:
    if not path.exists():  # which is written last, so it is whole
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, seed)
    return path


def _tuned(name: str, write: Callable[[Path, int, int | None], None]) -> Case:
    """Fine-tunes of the network of the first seed, a task each."""
    models = _drawn(f"{name}-tuned", lambda path, task: write(path, 0, task))
    return Case(
        models, base=lambda folder: _made(folder / name / "0.onnx", lambda path, seed: write(path, seed, None), 0)
    )


def _topology(name: str) -> Callable[[Path, int], None]:
    def write(path: Path, seed: int) -> None:
        path.write_bytes(load_topology(FOLDER / f"{name}{SUFFIX}", seed).SerializeToString())

    return write


def _images(name: str, count: int, side: int) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = folder / f"{name}.npy"
        if not path.exists():
            rng = np.random.default_rng(0)
            np.save(path, rng.standard_normal((count, 3, side, side), np.float32))
        return path

    return made


def _tokens(name: str, count: int, words: int) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = folder / f"{name}.npy"
        if not path.exists():
            np.save(path, np.random.default_rng(0).integers(0, words, (count, LENGTH)))
        return path

    return made


def _trained(pair: str) -> Case:
    """A pair of the shared folder, with its 5,000 calibration images."""
    folder = SHARED / "pairs" / pair

    def models(_folder: Path, count: int) -> list[Path]:
        return [folder / "a.onnx", folder / "b.onnx"][:count]

    def data(into: Path) -> Path:
        path = into / f"{pair}.npz"
        if not path.exists():
            command = [sys.executable, str(SHARED / "tools" / "calib.py"), str(folder), str(path)]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own tools
        return path

    return Case(models, data, folder / "reference.json")


TRAINED = {name: _trained(name) for name in ("mnist-mlp", "cifar5-resnet20", "cifar5-resnet20gn", "cifar5-vit")}
RESNET50 = Case(_drawn("resnet50", _topology("torchvision/resnet50.torchscript")), _images("images64", 512, 64))
VIT = Case(_drawn("vit-b16", lambda path, seed: vit(path, seed, VIT_B16)), _images("images224", 64, SIDE))
BERT = Case(_drawn("bert-base", lambda path, seed: bert(path, seed, BERT_BASE)), _tokens("tokens", 64, BERT_BASE.words))
TINY = Case(_drawn("tiny", lambda path, seed: decoder(path, seed, SMALL)), _tokens("tiny", 64, SMALL.words))


DECODER_OF_10_GB = Case(_drawn("decoder-10g", lambda path, seed: decoder(path, seed, DECODER_10G)))
TUNED_VIT = _tuned("vit-b16", lambda path, seed, task: vit(path, seed, VIT_B16, task))
TUNED_DECODER = _tuned("decoder-21", lambda path, seed, task: decoder(path, seed, DECODER, task))
TUNED_TINY = _tuned("tiny", lambda path, seed, task: decoder(path, seed, SMALL, task))


def _decoder(blocks: int) -> Case:
    return Case(_drawn(f"decoder-{blocks}", lambda path, seed: decoder(path, seed, DECODER.scaled(blocks))))


def _jobs() -> Iterator[Job]:
    align = ("--method", "mudsc-align")
    yield Job("tiny/mudsc-align", TINY, align, 32)
    yield Job("tiny/average", TINY, ("--method", "average"))
    yield Job("tiny-tuned/tsv-m", TUNED_TINY, ("--method", "tsv-m"), models=3)
    for name, case in TRAINED.items():
        yield Job(f"{name}/mudsc-align", case, align, 5000, method="mudsc_align")
        yield Job(f"{name}/act-align", case, ("--method", "act-align"), 5000, method="act_align")
        yield Job(f"{name}/zipit", case, ("--method", "zipit"), 5000, method="zipit")
        yield Job(f"{name}/zipit+ls", case, ("--method", "zipit", "--refine", "ls"), 5000)
        yield Job(f"{name}/auto", case, ("--method", "auto"), 5000)
        yield Job(f"{name}/default", case, (), 5000)
    yield Job("resnet50/mudsc-align", RESNET50, align, 512)
    yield Job("resnet50/rebasin", RESNET50, ("--method", "rebasin"), 512)
    yield Job("resnet50/zipit+ls", RESNET50, ("--method", "zipit", "--refine", "ls"), 512)
    yield Job("resnet50/default", RESNET50, (), 512)
    yield Job("vit-b16/mudsc-align", VIT, align, 32)
    yield Job("bert-base/mudsc-align", BERT, align, 64)
    yield Job("decoder/average", _decoder(DECODER.blocks), ("--method", "average"))
    for blocks in (5, 10):
        yield Job(f"decoder-{blocks}/average", _decoder(blocks), ("--method", "average"))
        yield Job(f"decoder-{blocks}/rebasin", _decoder(blocks), ("--method", "rebasin"))
    yield Job("decoder-10g/average", DECODER_OF_10_GB, ("--method", "average"))
    yield Job("decoder-10g/rebasin", DECODER_OF_10_GB, ("--method", "rebasin"))
    for method in ("tsv-m", "ties"):
        yield Job(f"vit-b16-8-tuned/{method}", TUNED_VIT, ("--method", method), models=8)
    for method in ("tsv-m", "ties", "task-arithmetic"):
        yield Job(f"decoder-3-tuned/{method}", TUNED_DECODER, ("--method", method), models=3)
    for samples in (128, 256):
        yield Job(f"resnet50-{samples}/mudsc-align", RESNET50, align, samples)
    for models in (3, 4):
        yield Job(f"resnet50-{models}-models/mudsc-align", RESNET50, align, 512, models=models)


JOBS = {job.name: job for job in _jobs()}
"""All by name: the tiny ones to see that the tool works, trained pairs, models of real size, and three that grow."""
