"""``onnxmerge run``: merge models into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxmerge.api import MergeOptions, merge
from onnxmerge.calibration.progress import progress_bar
from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import model_options, write_text
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.report.console import print_merge


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A.onnx B.onnx...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The merged model."
)
@click.option(
    "--calib", metavar="DATA", help="Unlabelled data: .npy, .npz, a folder of these or of images, script.py:function."
)
@click.option(
    "--method",
    type=click.Choice(list(MATCHERS)),
    default="mudsc-align",
    show_default=True,
    help="How units are matched.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Weight of weight-space similarity (mudsc-align, mudsc-zip).",
)
@click.option(
    "--zip-a",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="What the similarity of units already merged is multiplied by (zip methods).",
)
@click.option(
    "--zip-b",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of its merges that a model may use up inside itself (zip methods).",
)
@click.option(
    "--objective",
    type=click.Choice(["correlation", "inner"]),
    default="correlation",
    show_default=True,
    help="Weight-space similarity of rebasin.",
)
@click.option(
    "--repair",
    type=click.Choice(["auto", "none", "rescale", "repair"]),
    default="auto",
    show_default=True,
    help="Restore the statistics of merged units: of outputs, and of hidden units where BatchNorm was folded away.",
)
@click.option(
    "--refine",
    type=click.Choice(["none", "ls"]),
    default="none",
    show_default=True,
    help="ls: after matching, solve each linear layer by least squares for the parents' activations.",
)
@click.option(
    "--output-scale",
    type=click.Choice(["auto", "keep", "unit"]),
    default="auto",
    show_default=True,
    help="Outputs for --refine ls: as they are (logits), or only their directions (embeddings).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), help="Use so many calibration samples.")
@click.option("--batch-size", type=click.IntRange(min=1), default=BATCH_SIZE, show_default=True)
@image_options
@model_options
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the summary as JSON.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def run(
    models: tuple[str, ...], output: Path, calib: str | None, json_file: Path | None, quiet: bool, **settings: Any
) -> None:
    """Merge two or more models of one structure into one of the same size.

    The first model gives names, opset and metadata. Every model's groups of units are certified before anything is
    matched, and OUTPUT is either complete or untouched.
    """
    if Path(output).absolute() in {Path(model).absolute() for model in models}:
        raise UsageError(f"-o {output} is one of the models to merge; choose another name")
    images = take_image_options(settings)
    options = MergeOptions(**settings)
    result = merge(models, calibration=calib, options=options, image_options=images, progress=progress_bar)
    written = result.save(output)
    if json_file is not None:
        write_text(json_file, json.dumps({**result.report.to_dict(), "output": str(written)}, indent=1) + "\n")
    if not quiet:
        print_merge(result.report, written)
