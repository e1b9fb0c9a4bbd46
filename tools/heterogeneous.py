#!/usr/bin/env python3
"""Merge encoders of other tasks two by two, each keeping its head, and say how much of their parents is left.

    PYTHONPATH=. python tools/heterogeneous.py [FOLDER] [--torch PYTHON] [--task NAME ...] [--group NAME ...]
        [--method NAME ...] [--samples 1000] [--test 2000] [--detail]

The tasks are those of tools/vision_tasks.py, on the images of CIFAR-10; one encoder for each is trained by
tools/train_encoders.py, by a Python with torch, in two groups: from initialisations of their own ("apart"), and from
one initialisation ("together"). All pairs of a group are merged up to the end of the encoder, on unlabelled training
images, half of them as the one network is given them and half as the other is. "default" is what `onnxmerge run` does
by itself. Networks and results are kept in FOLDER, so that a second call goes on where the first was ended.

A merge is scored at each of its two tasks on test images, by (L_avg - L) / (L_avg - L_parent), in percent: L is the
loss of the merged network (cross-entropy, or mean squared error), L_avg that of the best single answer to all test
images, L_parent that of the network that learned the task. So a parent has 100, and the mean answer 0. Needs onnxmerge,
Pillow and the folder of real material beside the checkout (or in ONNXMERGE_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge import merge
from onnxmerge.evaluation.heads import log_probabilities
from onnxmerge.evaluation.losses import Losses, Right
from onnxmerge.evaluation.metrics import scaled_score
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from tools.same_base import SHARED, images_of
from tools.vision_tasks import TASKS, Answers, Images

CHECKOUT = Path(__file__).resolve().parents[1]
METHODS = ("average", "rebasin", "act-align", "mudsc-align", "zipit", "weight-zip", "mudsc-zip", "default")
GROUPS: Mapping[str, Callable[[int], int]] = {"apart": lambda place: 1 + place, "together": lambda _place: 0}
"""The seed of a task's encoder, by the task's place."""

USUAL = ("classes", "autoencode", "denoise", "colourise", "edges", "keypoints")
"""The tasks that are taken where nobody says which."""

LAST = "/encoder/encoder.5/last/Relu"
"""The last node of the encoder, as torch's exporter calls it."""

BATCH = 500

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Questions:
    """What a task asks on test images: what a network is given, and what is right."""

    given: Images
    right: Right

    def loss(self, answers: Answers) -> tuple[float, float]:
        """What answers [n, columns] lose, and what the best single answer to all loses: means."""
        losses = Losses(np.zeros(1))
        losses.expect(self.right)
        values = answers.astype(np.float64)
        losses.sums[0] = self.right.loss(log_probabilities(values) if self.right.classes else values)
        return float(losses.means[0]), losses.constant


@dataclass(frozen=True, slots=True)
class Material:
    """Calibration images, and the questions of each task."""

    calibration: Images
    questions: Mapping[str, Questions]

    def mixed(self, tasks: Sequence[str]) -> Images:
        """The calibration images, as the networks of these tasks are given them in turn."""
        found = self.calibration.copy()
        for place, name in enumerate(tasks):
            own = slice(place, None, len(tasks))
            none = np.zeros(len(found[own]), np.int64)
            found[own], _ = TASKS[name].pose(found[own], none, np.random.default_rng(place))
        return found


def main() -> None:
    """Train what is missing, merge what has not been merged, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()) / "heterogeneous")
    parser.add_argument("--torch", type=Path, help="a Python that has torch, for encoders that are not there yet")
    parser.add_argument("--task", nargs="*", default=USUAL, choices=TASKS)
    parser.add_argument("--group", nargs="*", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--method", nargs="*", default=METHODS)
    parser.add_argument("--samples", type=int, default=1000, help="calibration images of a pair")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--detail", action="store_true", help="a table of all pairs too")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    trained(folder, arguments.group, arguments.task, arguments.torch)
    results = folder / f"{arguments.samples}-{arguments.test}.jsonl"
    known = _read(results)
    material = _material(arguments.task, arguments.samples, arguments.test)
    for row in measured(folder, arguments.group, arguments.task, arguments.method, material, known):
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['group']} {' '.join(row['tasks'])} {row['method']}: {row['scaled']}", file=sys.stderr, flush=True)
        known.append(row)
    asked = [
        row
        for row in known
        if row["group"] in arguments.group
        and set(row["tasks"]) <= set(arguments.task)
        and row["method"] in (*arguments.method, "parent")
    ]
    print("\n\n".join(tables(asked, detail=arguments.detail)))


def _read(results: Path) -> list[Row]:
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []


def trained(folder: Path, groups: Sequence[str], tasks: Sequence[str], torch: Path | None) -> None:
    """Train the encoders that are not in the folder yet. Ends the program where that takes a Python with torch."""
    places = {name: place for place, name in enumerate(TASKS)}
    missing = [(group, name) for group in groups for name in tasks if not _file(folder, group, name).exists()]
    if not missing:
        return
    if torch is None:
        sys.exit(f"{_file(folder, *missing[0])} is not there yet; say with --torch which Python has torch to train it")
    data, images = np.load(SHARED / "data" / "cifar10.npz"), folder / "images.npz"
    if not images.exists():
        labels = data["y_train"].astype(np.int64)
        np.savez(images, images=images_of(data, "train", np.arange(len(labels))), labels=labels)
    for group, name in missing:
        target = _file(folder, group, name)
        target.parent.mkdir(exist_ok=True)
        seeds = ["--initialisation", str(GROUPS[group](places[name])), "--seed", str(100 + places[name])]
        command = [str(torch), "-m", "tools.train_encoders", str(images.absolute()), name, str(target.absolute())]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        subprocess.run([*command, *seeds], check=True, env=environment, stdout=sys.stderr)  # noqa: S603 - our own tool


def _file(folder: Path, group: str, task: str) -> Path:
    return folder / group / f"{task}.onnx"


def _material(tasks: Sequence[str], samples: int, test: int) -> Material:
    data = np.load(SHARED / "data" / "cifar10.npz")
    chosen = np.random.default_rng(0).permutation(len(data["y_test"]))[:test]  # they are sorted by class
    images, labels = images_of(data, "test", chosen), data["y_test"][chosen].astype(np.int64)
    questions = {name: questions_of(name, images, labels) for name in tasks}
    return Material(images_of(data, "train", data["calib"][:samples]), questions)


def questions_of(name: str, images: Images, labels: Answers) -> Questions:
    """What a task asks on images [n, 3, side, side]; what is random about it is the same each time."""
    task = TASKS[name]
    given, right = task.pose(images, labels, np.random.default_rng(0))
    values = np.eye(task.classes)[right] if task.classes else right.astype(np.float64)
    return Questions(given, Right(values, bool(task.classes)))


def measured(
    folder: Path,
    groups: Sequence[str],
    tasks: Sequence[str],
    methods: Sequence[str],
    material: Material,
    known: Sequence[Row],
) -> Iterator[Row]:
    """A row for each parent and each merge that is not among those ``known``."""
    done = {(row["group"], *row["tasks"], row["method"]): row for row in known}
    for group in groups:
        parents: dict[str, tuple[float, float]] = {}
        for name in tasks:
            row = done.get((group, name, "parent"))
            if row is None:
                asked = material.questions[name]
                model = read_network(_file(folder, group, name)).model
                loss, mean = asked.loss(_answers(model, {}, "answer", asked.given))
                scaled = scaled_score(loss, baseline=mean, parent=loss)
                row = {"group": group, "tasks": [name], "method": "parent", "losses": [loss], "mean_answer": [mean]}
                row |= {"scaled": [scaled], "seconds": 0.0}
                yield row
            parents[name] = (row["losses"][0], row["mean_answer"][0])
        for pair in combinations(tasks, 2):
            for method in methods:
                if (group, *pair, method) not in done:
                    own = [parents[name] for name in pair]
                    yield {"group": group, "tasks": [*pair], "method": method} | _merged(
                        [_file(folder, group, name) for name in pair], pair, method, material, own
                    )


def _merged(
    files: Sequence[Path],
    pair: Sequence[str],
    method: str,
    material: Material,
    parents: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """The losses and scaled scores of a merge; ``parents`` are the losses of each, and of the mean answer."""
    how: dict[str, Any] = {} if method == "default" else {"method": method}
    started = time.process_time()
    result = merge(files, calibration=material.mixed(pair), heads="separate", until=(LAST,), **how)
    seconds = time.process_time() - started
    losses = []
    for name in pair:
        asked = material.questions[name]
        answers = _answers(result.template.model, result.weights, f"answer_{name}", asked.given)
        losses.append(asked.loss(answers)[0])
    scaled = [scaled_score(loss, baseline=mean, parent=own) for loss, (own, mean) in zip(losses, parents, strict=True)]
    done = f"{result.report.method}, {result.report.repair}"
    return {"losses": losses, "scaled": scaled, "seconds": seconds, "done": done}


def _answers(model: Any, weights: Any, output: str, given: Images) -> Answers:
    session = open_session(model, weights=weights, outputs=[output])
    parts = [session.run({"images": part})[output] for part in np.array_split(given, -(-len(given) // BATCH))]
    return np.concatenate(parts)


def tables(rows: Sequence[Row], *, detail: bool) -> list[str]:
    """What is printed, in Markdown: the parents, each group's methods task by task, and with ``detail`` all pairs."""
    parents = [row for row in rows if row["method"] == "parent"]
    merges = [row for row in rows if row["method"] != "parent"]
    tasks = [name for name in TASKS if any(name in row["tasks"] for row in rows)]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    found = [_parents_table(parents, groups, tasks)]
    for group in groups:
        own = [row for row in merges if row["group"] == group]
        learned = [name for name in tasks if any(name in row["tasks"] for row in own)]
        found.append(_methods_table(group, own, learned))
        if detail:
            found.append(_pairs_table(group, own))
    return found


def _parents_table(parents: Sequence[Row], groups: Sequence[str], tasks: Sequence[str]) -> str:
    losses = {(row["group"], row["tasks"][0]): (row["losses"][0], row["mean_answer"][0]) for row in parents}
    rows = [["task", "what is asked", "mean answer", *groups]]
    for task in tasks:
        own = [losses.get((group, task)) for group in groups]
        mean = next(each[1] for each in own if each is not None)
        cells = ("" if each is None else f"{each[0]:.4f}" for each in own)
        rows.append([task, TASKS[task].summary, f"{mean:.4f}", *cells])
    return _markdown(rows)


def _methods_table(group: str, merges: Sequence[Row], tasks: Sequence[str]) -> str:
    """For each method the mean scaled score of each task over its pairs, and how often it beats the plain average."""
    plain = {tuple(row["tasks"]): row["scaled"] for row in merges if row["method"] == "average"}
    rows = [[group, *tasks, "mean of pairs", "worst pair", "tasks above average", "pairs above average", "seconds"]]
    for method in dict.fromkeys(row["method"] for row in merges):
        own = [row for row in merges if row["method"] == method]
        scores = {name: [_score(row, name) for row in own if name in row["tasks"]] for name in tasks}
        means = [float(np.mean(row["scaled"])) for row in own]
        better = [
            (score > lower, np.mean(row["scaled"]) > np.mean(plain[tuple(row["tasks"])]))
            for row in own
            if tuple(row["tasks"]) in plain
            for score, lower in zip(row["scaled"], plain[tuple(row["tasks"])], strict=True)
        ]
        above = ["", ""]
        if method != "average" and better:
            above = [
                f"{sum(each for each, _ in better)} of {len(better)}",
                f"{sum(both for _, both in better) // 2} of {len(better) // 2}",
            ]
        cells = [_percent(float(np.mean(scores[name]))) for name in tasks]
        seconds = float(np.median([row["seconds"] for row in own]))
        rows.append([method, *cells, _percent(np.mean(means)), _percent(min(means)), *above, f"{seconds:.1f}"])
    return _markdown(rows)


def _score(row: Row, name: str) -> float:
    return float(row["scaled"][row["tasks"].index(name)])


def _pairs_table(group: str, merges: Sequence[Row]) -> str:
    """For each pair the two scaled scores by each method."""
    methods = list(dict.fromkeys(row["method"] for row in merges))
    rows = [[group, *methods]]
    for pair in dict.fromkeys(tuple(row["tasks"]) for row in merges):
        own = {row["method"]: row["scaled"] for row in merges if tuple(row["tasks"]) == pair}
        cells = [", ".join(map(_percent, own[method])) if method in own else "" for method in methods]
        rows.append([" + ".join(pair), *cells])
    return _markdown(rows)


def _percent(score: Any) -> str:
    return f"{100 * score:.1f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
