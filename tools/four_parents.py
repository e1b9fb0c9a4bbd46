#!/usr/bin/env python3
"""Merge four parents (two seeds of each task) into one model, and compare it with the plain averages of all pairs.

    /tmp/torch/bin/python tools/train_digits.py /tmp/four --seeds 11 12 13 14     # needs torch, see there
    python tools/four_parents.py /tmp/four [--method c2m3 ...] [--markdown]

A row for each way to merge. A column for each parent: the accuracy on its task, on images that nothing else has seen.
For the pairs it is the best of all plain averages of two models that this parent takes part in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from onnxmerge import MergeOptions, evaluate, merge
from onnxmerge.evaluation.scorer import Accuracy
from onnxmerge.evaluation.task_file import read_tasks

METHODS = ("average", "mudsc-align", "c2m3", "mudsc-zip", "c2m3 +ls")


def main() -> None:
    """Merge by each method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", nargs="*", default=METHODS)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder
    learned = read_tasks(folder / "task.json").models
    parents, tasks = [path for path, _ in learned], [task for _, task in learned]

    own = [_accuracies(folder, [parent])[task] for parent, task in learned]
    best = [0.0] * len(parents)
    for pair in combinations(range(len(parents)), 2):
        found = _accuracies(folder, [parents[index] for index in pair])
        for index in pair:
            best[index] = max(best[index], found[tasks[index]])
    rows = [("the parent itself", own), ("best plain average of a pair", best)]
    for method in arguments.method:
        found = _accuracies(folder, parents, method)
        rows.append((f"all four, {method}", [found[task] for task in tasks]))

    head = ("", *(f"{path.name} ({tasks[index] + 1})" for index, path in enumerate(parents)))
    print(_row(head, markdown=arguments.markdown))
    if arguments.markdown:
        print(_row(("---",) * len(head), markdown=True))
    for title, accuracies in rows:
        cells = (title, *(f"{100 * each:.1f}" for each in accuracies))
        print(_row(cells, markdown=arguments.markdown))


def _accuracies(folder: Path, models: Sequence[Path], method: str = "average") -> tuple[float, ...]:
    """The accuracy on each task of the models merged."""
    name, _, refinement = method.partition(" +")
    options = MergeOptions(method=name, refine="ls" if refinement == "ls" else "none")
    data = folder / "calib.npz"
    merged = merge(models, calibration=data, options=options) if len(models) > 1 else models[0]
    found = evaluate({"merged": merged}, folder / "test.npz", folder / "test.npz", tasks=folder / "task.json")
    return tuple(task.top[0] for task in found["merged"].scores.tasks if isinstance(task, Accuracy))


def _row(cells: Sequence[str], *, markdown: bool) -> str:
    return f"| {' | '.join(cells)} |" if markdown else f"{cells[0]:32s}" + "".join(f"{cell:>14s}" for cell in cells[1:])


if __name__ == "__main__":
    main()
