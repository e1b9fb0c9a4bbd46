"""The pairs of networks of shared/ and the example digits, as the tools that train take them.

Accuracies are those of `onnxmerge eval`: joint where the tasks are of different classes, the average over tasks where
they are labellings of the same images. Test images are for that alone. Needs onnxmerge, Pillow and, but for the
digits, the folder of real material beside the checkout (or in ONNXMERGE_SHARED).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge import evaluate
from tools.same_base import SHARED, images_of

PAIRS = ("digits", "mnist-mlp", "cifar5-resnet20", "cifar5-resnet20gn", "cifar5-vit")
DIGITS = Path(__file__).resolve().parents[1] / "onnxmerge" / "examples" / "digits"
SAMPLES = 5000
"""Calibration images, as of shared/tools/calib.py; the digits have fewer."""

Accuracies = tuple[float | None, float]
"""Percent of the test images that are answered rightly: joint (None: the tasks label the same images), and the mean
over tasks."""

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def row_printer(width: int, *, markdown: bool, file: Path | None = None) -> Callable[..., None]:
    """What prints the cells of a row, the head's first: of markdown, or of columns so wide; to ``file`` as well."""
    written: list[str] = []

    def show(*cells: str) -> None:
        lines = [f"| {' | '.join(cells)} |" if markdown else "".join(cell.ljust(width) for cell in cells)]
        if markdown and not written:
            lines.append(f"|{' --- |' * len(cells)}")
        written.extend(lines)
        text = "\n".join(lines)
        print(text, flush=True)
        if file is not None:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")

    return show


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two networks, the tasks that they learned, and images.

    ``labels`` are those of the calibration images (None: not known). ``vectors`` has the class vectors of each task
    [classes, outputs], ``rows_of`` for each task which of them a label means (-1: none). ``joint``: one question is
    asked of all classes together.
    """

    name: str
    models: tuple[Path, Path]
    tasks: Path
    calibration: Images
    labels: Labels | None
    test: Mapping[str, Any]
    vectors: tuple[Images, ...]
    rows_of: tuple[Labels, ...]
    joint: bool

    def accuracy(self, model: Path | None) -> float:
        """Percent of the test images that a model answers rightly; None: the parents' ensemble."""
        joint, average = self.scored([model])[0] if model is not None else self.ensembles()[0]
        return average if joint is None else joint

    def scored(self, models: Sequence[Path]) -> list[Accuracies]:
        """The accuracies of some models on the test images."""
        return self._accuracies({str(place): model for place, model in enumerate(models)}, (), ("model",))

    def ensembles(self) -> list[Accuracies]:
        """Those of the parents' ensemble, and of their ensemble as ``--answer ensemble`` forms it."""
        return self._accuracies({}, self.models, ("ensemble", "answer"))

    def _accuracies(
        self, models: Mapping[str, Path], parents: Sequence[Path], roles: Sequence[str]
    ) -> list[Accuracies]:
        found = evaluate(models, self.test["images"], self.test["labels"], tasks=self.tasks, parents=parents)
        every = []
        for own in (each for role in roles for each in found.models if each.role == role):
            if own.scores.average is None:
                raise SystemExit(f"{self.name}: {own.name} does not answer all tasks")
            joint = own.scores.joint.top[0] if self.joint and own.scores.joint is not None else None
            every.append((None if joint is None else 100 * float(joint), 100 * float(own.scores.average[0])))
        return every


def open_pair(name: str, folder: Path | None = None) -> Pair:
    """A pair with its images, by default of shared/ or of the examples."""
    if folder is None:
        folder = DIGITS if name == "digits" else SHARED / "pairs" / name
    tasks = folder / ("task.json" if name == "digits" else "pair.json")
    told = json.loads(tasks.read_text(encoding="utf-8"))
    calibration, labels, test = _images(told)
    joint = told["kind"] != "relabel"
    classes = 1 + max(max(task["classes"]) for task in told["tasks"]) if joint else 10
    rows_of = []
    for task in told["tasks"]:
        rows = np.full(classes, -1)
        rows[task["classes"] if joint else slice(None)] = range(len(task["classes"])) if joint else task["label_of"]
        rows_of.append(rows)
    return Pair(
        name,
        (folder / "a.onnx", folder / "b.onnx"),
        tasks,
        calibration,
        labels,
        test,
        tuple(np.array(task["vectors"], np.float32) for task in told["tasks"]),
        tuple(rows_of),
        joint,
    )


def _images(told: Mapping[str, Any]) -> tuple[Images, Labels | None, dict[str, Any]]:
    if told["name"] == "digits":
        held = np.load(DIGITS / "test.npz")
        return np.load(DIGITS / "calib.npz")["images"], None, {each: held[each] for each in ("images", "labels")}
    data = np.load(SHARED / "data" / f"{told['data']}.npz")
    chosen = data["calib"][:SAMPLES]
    labels = {split: data[f"y_{split}"].astype(np.int64) for split in ("train", "test")}
    if told["data"] == "mnist":
        made = {split: ((data[f"x_{split}"].astype(np.float32) / 255 - 0.5) / 0.5)[:, None] for split in labels}
        return made["train"][chosen], labels["train"][chosen], {"images": made["test"], "labels": labels["test"]}
    every = np.arange(len(labels["test"]))
    test = {"images": images_of(data, "test", every), "labels": labels["test"]}
    return images_of(data, "train", chosen), labels["train"][chosen], test
