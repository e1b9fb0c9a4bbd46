"""``onnxmerge fold``: low-rank adapters become part of the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from onnxmerge import api
from onnxmerge.cli.files import InputFile, OutputFile, publishing
from onnxmerge.cli.options import known_inputs, provider_option, sample_options
from onnxmerge.report.terminal import terminal


@click.command()
@click.argument("model", type=InputFile("the model itself", model=True), metavar="MODEL.onnx")
@click.option("-o", "--output", type=OutputFile(model=True), required=True, help="The model without adapters.")
@click.option(
    "--adapter",
    type=InputFile("the adapter"),
    metavar="FILE.onnx_adapter",
    help="Tensors that MODEL takes as inputs, as ONNX Runtime keeps them; they are put in first.",
)
@sample_options
@provider_option
@click.pass_context
def fold(
    context: click.Context,
    /,
    model: str,
    output: Path,
    *,
    adapter: str | None,
    inputs: Mapping[str, str],
    provider: str,
) -> None:
    """Fold the low-rank adapters (LoRA) of MODEL into the layers that they stand beside: one plain model.

    Models whose adapters have other ranks can then be merged, with task vectors or without. Both models run on a
    sample, and nothing is written unless they agree.
    """
    with publishing(context, like=model) as publication:
        result = api.fold(model, adapter=adapter, inputs=known_inputs(inputs), provider=provider)
        written = result.save(output, together=publication)
    ranks = ", ".join(f"{count} of rank {rank}" for rank, count in sorted(Counter(result.ranks).items()))
    console = terminal()
    if adapter is not None:
        console.say(f"adapter      {result.adapter:,} tensors put in")
    console.say(f"folded       {ranks or 'no branch'}")
    for each in result.left:
        console.say(f"left         {each}")
    if result.ranks:
        console.say(
            f"proved       layers differ by {result.error:.1e} at most, and a branch adds {result.effect:.1e} or more"
        )
    console.say(f"wrote {written}")
