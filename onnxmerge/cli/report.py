"""``onnxmerge report``: a page about a model that was merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxmerge.api.describe import describe
from onnxmerge.cli.files import InputFile, OutputFile, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import known_inputs, model_options, sample_options
from onnxmerge.cli.tasks import read_tasks, take_tasks, task_options
from onnxmerge.report.page import model_page
from onnxmerge.report.progress import progress_bar
from onnxmerge.report.terminal import terminal


@click.command()
@click.argument("model", type=InputFile("the model itself", model=True), metavar="MERGED.onnx")
@click.option("-o", "--output", type=OutputFile(), metavar="FILE.html", required=True, help="The page.")
@click.option(
    "--parents",
    multiple=True,
    type=InputFile("one of the parents", model=True),
    metavar="A.onnx",
    help="What it was merged from, and the base; repeat for each. It is held to them, and merged again to be seen.",
)
@click.option("--calib", type=InputFile("the calibration data"), metavar="DATA", help="What it was merged with.")
@click.option("--labels", type=InputFile("the labels"), metavar="FILE", help="The labels it was merged with.")
@task_options
@click.option(
    "--landscape",
    is_flag=True,
    help="Show the losses around it too, on the plane through it and its two parents (docs/landscape.md).",
)
@image_options
@sample_options
@model_options
@click.pass_context
def report(
    context: click.Context,
    /,
    model: str,
    output: Path,
    *,
    calib: str | None,
    **settings: Any,
) -> None:
    """Write a page about MODEL: the recipe that it carries, its groups of units and how they hang together.

    With --parents, and the data that it was merged with, the page is that of `run --report`: the merge is done again by
    the recipe, and shown where it gives the same file.
    """
    images = take_image_options(settings)
    with publishing(context) as publication:
        found = describe(
            model,
            data=calib,
            tasks=read_tasks(take_tasks(settings)),
            inputs=known_inputs(settings.pop("inputs")),
            image_options=images,
            progress=progress_bar,
            announce=terminal().say,
            **settings,
        )
        publication.write_text(output, model_page(found))
    console = terminal()
    for note in found.notes:
        console.say(f"note   {note}")
    console.say(f"wrote  {output}")
