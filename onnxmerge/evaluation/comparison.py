"""Parents, their ensemble, the plain average and a merge, side by side on labelled test data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxmerge.api.merge import merge
from onnxmerge.api.options import MergeOptions
from onnxmerge.api.outcome import MergeResult
from onnxmerge.evaluation.accuracy import Scores, score, score_ensemble
from onnxmerge.evaluation.embed import embed
from onnxmerge.evaluation.task import TaskFile, read_tasks
from onnxmerge.model.read import read_network


def compare(folder: Path, options: MergeOptions) -> tuple[TaskFile, MergeResult, list[tuple[str, Scores]]]:
    """Merge the models of a folder (``task.json``, ``calib.npz``, ``test.npz``), and score all on the test data.

    Returns the tasks, the merge, and named scores. The test data is used for nothing else.
    """
    tasks = read_tasks(folder / "task.json")
    result = merge([path for path, _ in tasks.models], calibration=folder / "calib.npz", options=options)
    return tasks, result, list(_scores(folder, tasks, result, options))


def _scores(folder: Path, tasks: TaskFile, result: MergeResult, options: MergeOptions) -> Iterator[tuple[str, Scores]]:
    with np.load(folder / "test.npz", allow_pickle=False) as test:
        inputs, labels = test[tasks.input], test["labels"]
    outputs = {}
    for path, task in tasks.models:
        outputs[task] = embed(read_network(path), inputs, provider=options.provider)
        yield (
            f"{path.name} (trained on {tasks.tasks[task].name})",
            score(outputs[task], labels, tasks.tasks, disjoint=tasks.disjoint),
        )
    parents = [outputs[task] for task in range(len(tasks.tasks))]
    yield "both parents (ensemble)", score_ensemble(parents, labels, tasks.tasks, disjoint=tasks.disjoint)
    average = MergeOptions(method="average", seed=options.seed, provider=options.provider)
    for title, merged in (
        ("plain average", merge([path for path, _ in tasks.models], calibration=folder / "calib.npz", options=average)),
        (f"merged ({options.method})", result),
    ):
        found = embed(merged.template, inputs, weights=merged.weights, provider=options.provider)
        yield title, score(found, labels, tasks.tasks, disjoint=tasks.disjoint)
