"""Parents, their ensemble, the plain average and a merge, side by side on labelled test data."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.api.evaluate import evaluate
from onnxmerge.api.evaluation_result import EvaluationResult
from onnxmerge.api.merge import merge
from onnxmerge.api.outcome import MergeResult
from onnxmerge.evaluation.task_file import TaskFile, read_tasks
from onnxmerge.pipeline.options import MergeOptions


def compare(folder: Path, options: MergeOptions) -> tuple[TaskFile, MergeResult, EvaluationResult]:
    """Merge the models of a folder (``task.json``, ``calib.npz``, ``test.npz``), and score all on the test data.

    Returns the tasks, the merge, and the scores. The test data is used for nothing else.
    """
    tasks, data, test = read_tasks(folder / "task.json"), folder / "calib.npz", folder / "test.npz"
    parents = [path for path, _ in tasks.models]
    result = merge(parents, calibration=data, options=options)
    plain = MergeOptions(method="average", seed=options.seed, provider=options.provider)
    models = {
        "plain average": merge(parents, calibration=data, options=plain),
        f"merged ({result.report.method})": result,
    }
    scores = evaluate(models, test, test, tasks=tasks, parents=parents, provider=options.provider)
    return tasks, result, scores
