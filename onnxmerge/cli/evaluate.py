"""``onnxmerge eval``: scores of models on labelled data."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.api.evaluation_result import Baseline, EvaluationResult
from onnxmerge.cli.files import STANDARD_OUTPUT, InputFile, OutputFile, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import batch_size_option, provider_option
from onnxmerge.cli.tasks import read_tasks, take_tasks, task_options
from onnxmerge.errors import InputError, UsageError
from onnxmerge.model.read import read_network
from onnxmerge.report.evaluation import print_evaluation
from onnxmerge.report.progress import progress_bar
from onnxmerge.report.terminal import emit

_WHOLE = re.compile(r"\d{1,9}(,\d{1,9})*")


def _parents(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    parent = InputFile("one of the parents", model=True)
    return [parent.convert(path, option, context) for value in values for path in value.split(",") if path]


def _top_k(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    if not _WHOLE.fullmatch(value) or 0 in (found := {int(part) for part in value.split(",")}):
        raise click.BadParameter(f"{value!r}: expected whole numbers of at least 1 separated by commas, such as 1,5")
    return tuple(sorted(found))


@click.command("eval")
@click.argument("models", nargs=-1, type=InputFile("one of the models", model=True), metavar="[MODEL.onnx]...")
@click.option(
    "--data",
    type=InputFile("the data"),
    required=True,
    metavar="DATA",
    help="A .npy, .npz, a folder of these or of images, script.py:function.",
)
@click.option(
    "--labels",
    type=InputFile("the labels"),
    metavar="FILE",
    help="A label for each sample, in order: .npy, .npz, .csv, .txt. Not needed if DATA is a folder of class folders.",
)
@task_options
@click.option(
    "--parents", multiple=True, callback=_parents, metavar="A.onnx,B.onnx", help="Score these and their ensemble too."
)
@click.option("--top-k", default="1", show_default=True, callback=_top_k, metavar="K,K", help="Such as 1,5.")
@click.option(
    "--baseline",
    type=click.Choice(["mean", "average"]),
    default="mean",
    show_default=True,
    help="Where scaled scores of regressions start: the mean target as every answer, or the parents' plain average.",
)
@click.option(
    "--outputs",
    metavar="MEANING | NAME=MEANING,...",
    help="What outputs are: logits, probabilities, embedding or regression; by default it is found out.",
)
@batch_size_option
@image_options
@provider_option
@click.option(
    "--json",
    "json_file",
    type=OutputFile(dash=True),
    metavar="FILE",
    help="Write the scores as one JSON object; - prints it instead of the tables.",
)
@click.option(
    "--card",
    type=OutputFile(),
    metavar="README.md",
    help="Write a model card with the scores of the one MODEL, beside its --parents (docs/outputs.md).",
)
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    models: tuple[str, ...],
    *,
    data: str,
    baseline: Baseline,
    json_file: Path | None,
    card: Path | None,
    **settings: Any,
) -> None:
    """Score models on labelled data: accuracy per task, on average and over all classes together, or errors.

    With --parents these stand beside the models, and their ensemble: the plain one, and as --answer ensemble forms it.
    After ± is how far the 95% interval reaches. ECE is the calibration error: how far from the truth is how sure a
    model is.
    """
    images = take_image_options(settings)
    if card is not None and len(models) != 1:
        raise UsageError(f"--card is of one model, and {len(models)} are named; name its parents by --parents")
    with publishing(context) as publication:
        if card is not None:
            _require_merged(models[0], settings["parents"])
        result = api.evaluate(
            models,
            data,
            tasks=read_tasks(take_tasks(settings)),
            baseline=baseline,
            image_options=images,
            progress=progress_bar,
            **settings,
        )
        text = json.dumps(result.to_dict(), indent=1)
        if json_file not in (None, STANDARD_OUTPUT):
            publication.write_text(json_file, text + "\n")
        if card is not None:
            publication.write_text(card, _card_text(models[0], result))
    if json_file == STANDARD_OUTPUT:
        emit(text)
    else:
        print_evaluation(result)


def _card_text(model: str, result: EvaluationResult) -> str:
    from onnxmerge.report.card import interface, scored_card  # most evaluations write none

    read = read_network(model)
    return scored_card(result, interface(read.graph), read.model.metadata_props)


def _require_merged(model: str, parents: Sequence[str]) -> None:
    """Raise InputError unless the model says that onnxmerge merged it, of these parents if any are given."""
    from onnxmerge.api.reproduce import digest_of
    from onnxmerge.checking.provenance import RECIPE, SOURCES

    made = read_network(model).model.metadata_props
    if RECIPE not in made:
        raise InputError(f"{model}: does not say that onnxmerge merged it; a model card is of a merged model")
    sources = made.get(SOURCES, "").split()
    for parent in parents:
        if digest_of(parent) not in sources:
            raise InputError(f"{parent}: is not one of the models that {model} says it was merged from; leave it out")
