"""A model card: what a merged model is, for the page of its repository, in Markdown with the Hugging Face Hub's header.

The header's keys are those of the Hub's documentation (Model Cards: ``library_name``, ``tags``, ``base_model``,
``base_model_relation``). Names come from files that anybody may have made: each is escaped where it becomes Markdown.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxmerge.api.describe import KEPT
from onnxmerge.api.evaluation_result import EvaluationResult
from onnxmerge.api.outcome import MergeReport
from onnxmerge.api.score_table import ScoreTable, accuracies, regressions
from onnxmerge.api.summary import facts, width_heads, width_rows
from onnxmerge.checking.provenance import RECIPE
from onnxmerge.model.paths import short_names
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.text import printable
from onnxmerge.version import __version__

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
"""What Markdown and HTML give a meaning to, wherever in a line it stands."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What a program that runs the model must know: its inputs and outputs, each as `name` and `type [dimensions]`."""

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


def interface(graph: ir.Graph) -> Interface:
    """The inputs and outputs of a graph, without what it has weights for."""
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    return Interface(*(tuple((str(each.name), _declared(each)) for each in side) for side in (inputs, graph.outputs)))


def merge_card(report: MergeReport, output: str, command: str, found: Interface) -> str:
    """The card of a merge that was just made.

    Args:
        report: Of the merge.
        output: Name of its file.
        command: What repeats it.
        found: What the file takes and gives.

    """
    names = short_names(report.models)
    files = [*report.models, *(() if report.base is None else (report.base[0],))]
    origins, digests = short_names(files), [*report.sha256, *(() if report.base is None else (report.base[1],))]
    rows = [("method", report.method), *facts(report, names)]
    how = [(title, told) for title, told in rows if title not in ("certificate", "free")]
    body = [
        _opening(output, names, "" if report.base is None else origins[-1]),
        *_section("How it was merged", _table(ScoreTable(("", ""), tuple(how)))),
        *_section("Agreement with its parents", _agreement(report, names)),
        *_section("Widths that were tried", _widths(report.widening)),
        *_section("Use", _use(output, found)),
        *_section("The same again", _code(command, "sh")),
        *_section("Digests", _table(ScoreTable(("model", "SHA-256"), tuple(zip(origins, digests, strict=True))))),
    ]
    return _card(origins, body)


def scored_card(result: EvaluationResult, found: Interface, made: Mapping[str, str]) -> str:
    """The card of a model that was scored beside its parents.

    Args:
        result: Scores of one model, and of its parents where these were given.
        found: What the model takes and gives.
        made: What the file says of how it was made (``metadata_props``).

    """
    names = short_names([str(Path(model.name).absolute()) for model in result.models if model.role == "parent"])
    (output,) = (Path(model.name).name for model in result.models if model.role == "model")
    kinds = {task.kind for task in result.tasks}
    told = {key.removeprefix(KEPT): value for key, value in made.items() if key.startswith(KEPT) and key != RECIPE}
    body = [_opening(output, names)]
    if "classification" in kinds:
        about = f"Percent of {result.samples:,} samples, with 95% intervals; ECE is the expected calibration error."
        body += _section("Accuracy", f"{about}\n\n{_table(accuracies(result))}")
    if "regression" in kinds:
        about = f"On {result.samples:,} samples, with 95% intervals."
        body += _section("Errors", f"{about}\n\n{_table(regressions(result))}")
    body += [
        *_section("Use", _use(output, found)),
        *_section("How it was merged", _table(ScoreTable(("", ""), tuple(sorted(told.items()))))),
    ]
    return _card(names, body)


def _card(parents: Sequence[str], body: Sequence[str]) -> str:
    import yaml  # here, for it is slow to import and most commands write no card

    header = {"library_name": "onnx", "tags": ["onnx", "merge", "onnxmerge"]}
    if parents:
        header |= {"base_model": list(map(printable, parents)), "base_model_relation": "merge"}
    told = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    told = told.replace("base_model:\n", "base_model:  # put the names of the parents' repositories here\n", 1)
    return "\n\n".join([f"---\n{told}---", *body]) + "\n"


def _opening(output: str, parents: Sequence[str], base: str = "") -> str:
    of = f" of {' and '.join(map(_text, parents))}" if parents else ""
    tool = f"[onnxmerge](https://pypi.org/project/onnxmerge/) {__version__}"
    tuned = f", fine-tuned from {_text(base)}," if base else ""
    return f"# {_text(output)}\n\nA merge{of}{tuned} into one ONNX file, made without training by {tool}."


def _agreement(report: MergeReport, names: Sequence[str]) -> str:
    """The relative error of each parent's outputs, and the sizes."""
    if report.reconstruction is None:
        return ""
    data = "samples that nothing was fitted to" if report.held_out else "the calibration data"
    errors = [None if error is None else f"{error:.3g}" for error in report.reconstruction]
    sizes = [f"{size.parameters:,}" for size in report.footprints]
    rows = [(name, size, error or "-") for name, size, error in zip(names, sizes, errors, strict=False)]
    rows += [("merged", sizes[-1], "")] if len(sizes) > len(names) else []
    heads = ("model", "parameters", "relative error of the merged model's outputs")
    return f"Measured on {data}.\n\n{_table(ScoreTable(heads, tuple(rows)))}"


def _widths(found: WidthsReport | None) -> str:
    """What each network that was tried costs, and how it did."""
    if found is None:
        return ""
    rows = [(*row, "chosen" if index == found.chosen else "") for index, row in enumerate(width_rows(found))]
    return f"By {found.criterion} on {found.samples} held-out samples.\n\n" + _table(
        ScoreTable((*width_heads(found), ""), tuple(rows))
    )


def _use(output: str, found: Interface) -> str:
    rows = [("input", name, kind) for name, kind in found.inputs] + [("output", *each) for each in found.outputs]
    feeds = ", ".join(f"{name!r}: {_variable(name, index)}" for index, (name, _) in enumerate(found.inputs))
    code = f"""import onnxruntime

session = onnxruntime.InferenceSession({output!r})
outputs = session.run(None, {{{feeds}}})"""
    return f"{_table(ScoreTable(('', 'name', 'type'), tuple(rows)))}\n\n{_code(code, 'python')}"


def _variable(name: str, index: int) -> str:
    own = name.isidentifier() and not keyword.iskeyword(name) and name not in {"session", "onnxruntime", "outputs"}
    return name if own else f"input_{index}"


def _declared(value: ir.Value) -> str:
    dtype = "" if value.dtype is None else value.dtype.name.lower()
    return dtype if value.shape is None else f"{dtype} [{', '.join(str(dim) for dim in value.shape)}]"


def _section(title: str, body: str) -> Iterator[str]:
    if body:
        yield f"## {title}"
        yield body


def _table(scores: ScoreTable) -> str:
    """A table of Markdown; nothing where there are no rows."""
    if not scores.rows:
        return ""
    lines = [scores.heads, ("---",) * len(scores.heads), *scores.rows]
    return "\n".join(f"| {' | '.join(map(_text, cells))} |" for cells in lines)


def _code(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _text(said: str) -> str:
    """Text as Markdown shows it, on one line."""
    return _SPECIAL.sub(r"\\\1", printable(said))
