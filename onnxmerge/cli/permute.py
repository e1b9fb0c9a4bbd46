"""``onnxmerge permute``: other weights, the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.cli.options import model_options, sample_options
from onnxmerge.errors import UsageError
from onnxmerge.report.console import print_certificate


@click.command()
@click.argument("model", metavar="MODEL.onnx")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The permuted model."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@sample_options
@model_options
def permute(model: str, output: Path, **settings: Any) -> None:
    """Permute every group of MODEL at random: the weights differ, the function is the same."""
    if Path(output).absolute() == Path(model).absolute():
        raise UsageError(f"-o {output} is the model itself; choose another name")
    result = api.permute(model, **settings)
    written = result.save(output)
    print_certificate(result.certificate, result.coverage)
    click.echo(f"wrote {written}")
