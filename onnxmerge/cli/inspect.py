"""``onnxmerge inspect``: groups, reasons, proof."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from onnxmerge import api
from onnxmerge.cli.files import InputFile, OutputFile, publishing
from onnxmerge.cli.options import known_inputs, model_options, sample_options
from onnxmerge.errors import UsageError
from onnxmerge.pipeline.prepare import require
from onnxmerge.report.console import print_explanation, print_inspection
from onnxmerge.report.picture import PICTURES, pictured
from onnxmerge.report.terminal import emit
from onnxmerge.units.graph import SUFFIXES, graph_text


@click.command()
@click.argument("model", type=InputFile("the model itself", model=True), metavar="MODEL.onnx")
@click.option("--certify", is_flag=True, help="Permute every group at random and compare in ONNX Runtime.")
@click.option("--explain", metavar="TENSOR", help="Say why each axis of a tensor is what it is.")
@click.option(
    "--graph",
    type=OutputFile(suffixes=(*SUFFIXES, *PICTURES)),
    metavar="FILE",
    help="Write the unit graph (.graphml, .dot), or a picture of how groups feed one another (.svg, .mmd: Mermaid).",
)
@click.option("--mermaid", is_flag=True, help="Print that picture for Mermaid, as READMEs show it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--all", "every", is_flag=True, help="List every group, without folding repeated blocks.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@sample_options
@model_options
@click.pass_context
def inspect(
    context: click.Context,
    /,
    model: str,
    *,
    certify: bool,
    explain: str | None,
    graph: Path | None,
    mermaid: bool,
    as_json: bool,
    every: bool,
    **settings: Any,
) -> None:
    """Show which units of MODEL are interchangeable, and what is fixed and why.

    With --certify the exit code is 3 if permuting the groups changes what the model computes.
    """
    other = "--json" if as_json else "--explain"
    if mermaid and (as_json or explain is not None):
        raise UsageError(f"--mermaid and {other} both print something else than the tables; leave one of them out")
    with publishing(context) as publication:
        found = api.inspect(model, certify=certify, inputs=known_inputs(settings.pop("inputs")), **settings)
        explained = None if explain is None else found.explain(explain)
        if graph is not None and (found.certificate is None or found.certificate.passed):
            publication.write_text(graph, _graph(found, graph.suffix))
    if mermaid:
        emit(pictured(found.flow(), ".mmd"))
    elif as_json:
        told = {} if explained is None else {"explained": [asdict(axis) for axis in explained]}
        emit(json.dumps({**found.to_dict(), **told}, indent=1))
    elif explain is not None and explained is not None:
        print_explanation(explain, explained)
    else:
        print_inspection(found, every=every)
    if found.certificate is not None:
        require(found.certificate, found.model)


def _graph(found: api.Inspection, suffix: str) -> str:
    """What a file of this ending holds."""
    return pictured(found.flow(), suffix) if suffix in PICTURES else graph_text(found.unit_graph(), suffix)
