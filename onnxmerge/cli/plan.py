"""``onnxmerge plan``: what a merge will come to, before it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.cli.files import STANDARD_OUTPUT, InputFile, OutputFile, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import known_inputs, measuring_options, model_options, sample_options
from onnxmerge.cli.own import WidthOption, word_option
from onnxmerge.cli.tasks import read_tasks, take_tasks, task_options
from onnxmerge.cli.vocabulary import vocab_options
from onnxmerge.report.console import print_forecast
from onnxmerge.report.progress import progress_bar
from onnxmerge.report.terminal import emit


@click.command()
@click.argument("models", nargs=-1, type=InputFile("one of the models", model=True), required=True, metavar="A B...")
@click.option(
    "--calib",
    type=InputFile("the calibration data"),
    required=True,
    metavar="DATA",
    help="Unlabelled data: .npy, .npz, a folder of these or of images, script.py:function.",
)
@task_options
@vocab_options
@click.option(
    "--width",
    type=WidthOption(auto=False),
    metavar="FRACTION|GROUP=FRACTION,...",
    help="Merged units for each unit of a model, as `run` takes it; by default 1.",
)
@click.option(
    "--outputs",
    metavar="MEANING|NAME=MEANING,...",
    help="What outputs are: logits, probabilities, embedding, regression or features; by default it is found out.",
)
@word_option("output_type", "As `run` takes it: of quantised models, heads apart and other widths need float.")
@measuring_options
@image_options
@sample_options
@model_options
@click.option(
    "--json",
    "json_file",
    type=OutputFile(dash=True),
    metavar="FILE",
    help="Write the forecast as JSON; - prints it instead of the table.",
)
@click.pass_context
def plan(
    context: click.Context, /, models: tuple[str, ...], *, calib: str, json_file: Path | None, **settings: Any
) -> None:
    """Say what merging MODELS will come to, in seconds and without labels.

    Group by group, how much of what both models do fits into the units of one; and how well the default merge is
    expected to agree with the models' ensemble, with what that rests on (docs/forecast.md).
    """
    images = take_image_options(settings)
    with publishing(context) as publication:
        found = api.plan(
            models,
            calibration=calib,
            vocab=settings.pop("vocab") or None,
            tasks=read_tasks(take_tasks(settings)),
            inputs=known_inputs(settings.pop("inputs")),
            image_options=images,
            progress=progress_bar,
            forecast=True,
            **settings,
        )
        text = json.dumps(found.to_dict(), indent=1, default=str) + "\n"
        if json_file is not None and json_file != STANDARD_OUTPUT:
            publication.write_text(json_file, text)
    if json_file == STANDARD_OUTPUT:
        emit(text)
    else:
        print_forecast(found)
