"""``onnxmerge demo``: the main job on two small networks that ship with the package."""

from __future__ import annotations

from pathlib import Path

import click

from onnxmerge import examples
from onnxmerge.api import MergeOptions
from onnxmerge.api.comparison import compare
from onnxmerge.cli.files import OutputFile, files_of, publishing
from onnxmerge.cli.options import memory_option
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.pipeline.options import DEFAULT
from onnxmerge.report.evaluation import print_evaluation
from onnxmerge.report.terminal import terminal


@click.command()
@click.option("--method", type=click.Choice([*MATCHERS]), help="One method, in place of the best that `run` finds.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("-o", "--output", type=OutputFile(model=True), help="Keep the merged model.")
@memory_option
@click.pass_context
def demo(context: click.Context, /, method: str | None, seed: int, output: Path | None) -> None:
    """Merge a network that knows the digits 0-4 with one that knows 5-9, and score the result.

    Both were trained from different initialisations (tools/train_digits.py). Accuracies are on test images that nothing
    else has seen; no labels are used for merging.
    """
    folder = examples.path("digits")
    for file in folder.iterdir():
        files_of(context).reads("one of the demo's own files", str(file))
    with publishing(context, like=str(folder / "a.onnx")) as publication:
        tasks, result, scores = compare(folder, MergeOptions(method=method or DEFAULT, seed=seed))
        written = None if output is None else result.save(output, together=publication)
    print_evaluation(scores, tasks.name)
    if written is not None:
        terminal().say(f"wrote {written}")
