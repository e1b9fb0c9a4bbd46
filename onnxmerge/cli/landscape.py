"""``onnxmerge landscape``: losses around a merge, as a table, numbers and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.api.landscape import ALIGNING, BATCH, POINTS, SAMPLES, Landscape
from onnxmerge.cli.files import InputFile, OutputFile, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import known_inputs, model_options, sample_options
from onnxmerge.cli.tasks import read_tasks, take_tasks, task_options
from onnxmerge.pipeline.options import UNNAMED
from onnxmerge.report.landscape import landscape_svg, print_landscape
from onnxmerge.report.landscape_png import landscape_png, require_matplotlib
from onnxmerge.report.progress import progress_bar
from onnxmerge.report.terminal import terminal

FORMATS: Mapping[str, Callable[[Landscape], str | bytes]] = {
    ".svg": landscape_svg,
    ".png": landscape_png,
    ".csv": Landscape.to_csv,
    ".json": lambda found: json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n",
}


@click.command()
@click.argument("first", type=InputFile("the first model", model=True), metavar="A.onnx")
@click.argument("second", type=InputFile("the second model", model=True), metavar="B.onnx")
@click.argument("merged", type=InputFile("the merge", model=True), metavar="MERGED.onnx")
@click.option(
    "--data",
    type=InputFile("the data"),
    required=True,
    metavar="DATA",
    help="What the networks run on: .npy, .npz, a folder of these or of images, script.py:function.",
)
@click.option(
    "--labels",
    type=InputFile("the labels"),
    metavar="FILE",
    help="A label for each sample, as `eval` takes them. Without: how far a network is from what each parent answers.",
)
@task_options
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=OutputFile(suffixes=tuple(FORMATS)),
    metavar="FILE",
    help="A picture (.svg, .png), or the numbers (.csv, .json); repeatable.",
)
@click.option(
    "--calib", type=InputFile("the calibration data"), metavar="DATA", help="What units are matched on, if not DATA."
)
@click.option(
    "--method",
    type=click.Choice(ALIGNING),
    default=UNNAMED,
    show_default=True,
    help="What brings B to A. Take that of the merge.",
)
@click.option(
    "--points",
    type=click.IntRange(min=2, max=201),
    default=POINTS,
    show_default=True,
    help="On each side of the plane and on each line.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=SAMPLES, show_default=True, help="Of DATA, from all over it."
)
@click.option(
    "--outputs",
    "meanings",
    metavar="MEANING | NAME=MEANING,...",
    help="What outputs are: logits, probabilities, embedding, regression or features; by default it is found out.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH,
    show_default=True,
    help="So many samples stand together in DATA where they are taken.",
)
@image_options
@sample_options
@model_options
@click.pass_context
def landscape(
    context: click.Context,
    /,
    first: str,
    second: str,
    merged: str,
    *,
    data: str,
    outputs: tuple[Path, ...],
    calib: str | None,
    meanings: str | None,
    **settings: Any,
) -> None:
    """Show the losses around MERGED: on the plane through it and the models A and B that it was merged from.

    B is brought to the units of A first. Also the barrier: how far the loss rises on the straight line from A to B,
    with B as it is and matched.
    """
    images = take_image_options(settings)
    if any(path.suffix == ".png" for path in outputs):
        require_matplotlib()
    with publishing(context) as publication:
        found = api.landscape(
            first,
            second,
            merged,
            data,
            tasks=read_tasks(take_tasks(settings)),
            calibration=calib,
            inputs=known_inputs(settings.pop("inputs")),
            image_options=images,
            outputs=meanings,
            progress=progress_bar,
            announce=terminal().say,
            **settings,
        )
        for path in outputs:
            content = FORMATS[path.suffix](found)
            publication.write_bytes(path, content.encode() if isinstance(content, str) else content)
    print_landscape(found, outputs)
