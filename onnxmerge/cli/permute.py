"""``onnxmerge permute``: other weights, the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.cli.files import InputFile, OutputFile, publishing
from onnxmerge.cli.options import known_inputs, model_options, sample_options
from onnxmerge.report.console import print_certificate
from onnxmerge.report.terminal import terminal


@click.command()
@click.argument("model", type=InputFile("the model itself", model=True), metavar="MODEL.onnx")
@click.option("-o", "--output", type=OutputFile(model=True), required=True, help="The permuted model.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@sample_options
@model_options
@click.pass_context
def permute(context: click.Context, /, model: str, output: Path, **settings: Any) -> None:
    """Permute every group of MODEL at random: the weights differ, the function is the same."""
    with publishing(context, like=model) as publication:
        result = api.permute(model, inputs=known_inputs(settings.pop("inputs")), **settings)
        written = result.save(output, together=publication)
    print_certificate(result.certificate, result.coverage)
    terminal().say(f"wrote {written}")
