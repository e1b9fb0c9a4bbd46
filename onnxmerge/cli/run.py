"""``onnxmerge run``: merge models into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxmerge.api import MergeOptions, merge
from onnxmerge.calibration.progress import progress_bar
from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.cli.options import model_options, write_text
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.report.console import print_merge

_IMAGE = ("image_size", "mean", "std", "layout")


def _numbers(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: expected numbers separated by commas, such as 0.485,0.456,0.406"
        ) from None


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    if value is None:
        return None
    parts = value.lower().replace("x", ",").split(",")
    if not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise click.BadParameter(f"{value!r}: expected 224 or HEIGHTxWIDTH")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


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
@click.option(
    "--heads",
    type=click.Choice(["auto", "joint", "separate"]),
    default="auto",
    show_default=True,
    help="separate: keep each model's last linear layers, with outputs of its own; auto: where trailing parts differ.",
)
@click.option(
    "--until",
    multiple=True,
    metavar="NODE",
    help="Merge up to this node or tensor of the first model and keep what follows for each model; repeatable.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Fraction of each group's units to merge, the most similar ones; the others stay apart in wider layers.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), help="Use so many calibration samples.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    show_default=True,
    help="Share of the calibration batches that only judges the result.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=BATCH_SIZE, show_default=True)
@click.option("--image-size", callback=_size, metavar="N|HxW", help="Resize calibration images.")
@click.option("--mean", callback=_numbers, metavar="M,M,M", help="Subtracted from calibration images.")
@click.option("--std", callback=_numbers, metavar="S,S,S", help="Divides calibration images.")
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of image inputs.")
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

    Where only their trailing parts differ, the trunk is merged and each model keeps its own head, with outputs named
    after its file (logits_cats), or by letters where file names do not serve (logits_a).

    The first model gives names, opset and metadata. Every model's groups of units are certified before anything is
    matched, and OUTPUT is either complete or untouched.
    """
    if Path(output).absolute() in {Path(model).absolute() for model in models}:
        raise UsageError(f"-o {output} is one of the models to merge; choose another name")
    images = {name: settings.pop(name) for name in _IMAGE}
    options = MergeOptions(**settings)
    shown = {name: value for name, value in images.items() if value is not None}
    result = merge(models, calibration=calib, options=options, image_options=shown, progress=progress_bar)
    written = result.save(output)
    if json_file is not None:
        write_text(json_file, json.dumps({**result.report.to_dict(), "output": str(written)}, indent=1) + "\n")
    if not quiet:
        print_merge(result.report, written)
