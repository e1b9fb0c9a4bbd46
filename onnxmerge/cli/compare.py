"""``onnxmerge compare``: how two files of one network differ."""

from __future__ import annotations

import json
from typing import Any

import click

from onnxmerge import api
from onnxmerge.cli.files import InputFile, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import known_inputs, model_options, sample_options
from onnxmerge.report.check import print_comparison
from onnxmerge.report.terminal import emit


@click.command()
@click.argument("first", type=InputFile("the first model", model=True), metavar="A.onnx")
@click.argument("second", type=InputFile("the second model", model=True), metavar="B.onnx")
@click.option("--data", type=InputFile("the data"), metavar="DATA", help="Samples to run on, as `run` takes them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: every layer and every weight.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@image_options
@sample_options
@model_options
@click.pass_context
def compare(context: click.Context, /, first: str, second: str, *, as_json: bool, **settings: Any) -> int:
    """Say whether A and B are one structure and one function, and from which layer on they differ.

    Units of B are brought into the order of A where the models are the same but for that. The exit code is 3 if they
    compute something else.
    """
    images = take_image_options(settings)
    with publishing(context):
        inputs = known_inputs(settings.pop("inputs"))
        found = api.compare(first, second, inputs=inputs, image_options=images, **settings)
    if as_json:
        emit(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        print_comparison(found)
    return 0 if found.same else 3
