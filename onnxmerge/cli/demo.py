"""``onnxmerge demo``: the main job on two small networks that ship with the package."""

from __future__ import annotations

from pathlib import Path

import click

from onnxmerge import examples
from onnxmerge.api import MergeOptions
from onnxmerge.api.methods import METHODS
from onnxmerge.cli.options import memory_option
from onnxmerge.evaluation.comparison import compare
from onnxmerge.merging.task_vectors import TaskVectorMethod
from onnxmerge.report.evaluation import print_evaluation

_METHODS = [name for name, method in METHODS.items() if not isinstance(method, TaskVectorMethod)]  # there is no base


@click.command()
@click.option("--method", type=click.Choice(_METHODS), default="mudsc-align", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Keep the merged model.")
@memory_option
def demo(method: str, seed: int, output: Path | None) -> None:
    """Merge a network that knows the digits 0-4 with one that knows 5-9, and score the result.

    Both were trained from different initialisations (tools/train_digits.py). Accuracies are on test images that nothing
    else has seen; no labels are used for merging.
    """
    tasks, result, scores = compare(examples.path("digits"), MergeOptions(method=method, seed=seed))
    print_evaluation(scores, tasks.name)
    if output is not None:
        click.echo(f"wrote {result.save(output)}")
