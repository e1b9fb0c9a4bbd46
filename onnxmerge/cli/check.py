"""``onnxmerge check``: whether a model may ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnxmerge import api
from onnxmerge.checking.finding import nothing
from onnxmerge.checking.formats import FORMATS
from onnxmerge.checking.report import CheckReport, exit_code_of
from onnxmerge.checking.settings import FILES
from onnxmerge.cli.files import InputFile, OutputFile, files_of, publishing
from onnxmerge.cli.images import image_options, take_image_options
from onnxmerge.cli.options import (
    batch_size_option,
    known_inputs,
    model_options,
    require_allowed,
    sample_options,
    scripts_option,
)
from onnxmerge.cli.tasks import read_tasks, take_tasks, task_options
from onnxmerge.errors import UsageError
from onnxmerge.report.check import print_check
from onnxmerge.report.terminal import complain, emit

if TYPE_CHECKING:
    from onnxmerge.checking.config import Planned

_AT_LEAST_0 = click.FloatRange(0)
TEXT = "text"


def _names(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for value in values for name in value.split(",") if name)


def _reports(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """The formats and the files that are to be written."""
    found = []
    for value in values:
        kind, _, path = value.partition("=")
        if kind not in FORMATS or not path:
            raise click.BadParameter(f"{value!r}: expected FORMAT=FILE, with one of the formats {', '.join(FORMATS)}")
        found.append((kind, OutputFile().convert(path, option, context)))
    return tuple(found)


class _Check(click.Command):
    """Takes all words behind ``--against``, up to the next option, for parents."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as any command does, with ``--against`` in front of each parent."""
        written: list[str] = []
        against = False
        for place, word in enumerate(args):
            if word == "--":
                written += args[place:]
                break
            if against and not word.startswith("-"):
                written += ["--against", word]
                continue
            against = word == "--against" and place + 1 < len(args) and not args[place + 1].startswith("-")
            written += [] if against else [word]
        return super().parse_args(ctx, written)


@click.command(cls=_Check)
@click.argument("models", nargs=-1, type=InputFile("the model itself", model=True), metavar="[MODEL.onnx]...")
@click.option(
    "--against",
    multiple=True,
    type=InputFile("one of the parents", model=True),
    metavar="PARENT.onnx...",
    help="Models that it was made from or should agree with: all words up to the next option.",
)
@click.option(
    "--calib", "data", type=InputFile("the data"), metavar="DATA", help="Samples to run on, as `run` takes them."
)
@click.option(
    "--labels", type=InputFile("the labels"), metavar="FILE", help="A label for each sample, as `eval` has them."
)
@task_options
@click.option("--max-drop", type=_AT_LEAST_0, metavar="POINTS", help="Accuracy that may be lost against a parent.")
@click.option("--max-ensemble-drop", type=_AT_LEAST_0, metavar="POINTS", help="The same against the parents' ensemble.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of samples with each parent's highest class.")
@click.option("--max-error", type=_AT_LEAST_0, help="Largest error, relative to each parent's largest value.")
@click.option("--max-size-ratio", type=_AT_LEAST_0, help="Bytes, as many times the first parent's.")
@click.option("--max-parameters-ratio", type=_AT_LEAST_0, help="Parameters, as many times the first parent's.")
@click.option("--max-latency-ratio", type=_AT_LEAST_0, help="Time of a run, as many times the first parent's.")
@click.option("--reproduce", is_flag=True, help="Merge again as the metadata says, and compare bytes.")
@click.option("--min-runtime", metavar="VERSION", help="The oldest ONNX Runtime that must run it, such as 1.17.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    callback=_names,
    metavar="NAME",
    help="Another place where it must run: onnxruntime-web, openvino, tensorrt; repeatable.",
)
@click.option("--schema", type=InputFile("the schema"), metavar="FILE.json", help="Inputs and outputs it must have.")
@click.option("--certify", is_flag=True, help="Prove that its units can be reordered, as `inspect --certify` does.")
@click.option(
    "--only", multiple=True, callback=_names, metavar="FAMILY", help="Ask these gates alone, such as integrity."
)
@click.option("--skip", multiple=True, callback=_names, metavar="FAMILY", help="Leave these gates out.")
@click.option(
    "--format",
    "kind",
    type=click.Choice((TEXT, *FORMATS)),
    default=TEXT,
    show_default=True,
    help="What goes to standard output.",
)
@click.option(
    "--report",
    "written",
    multiple=True,
    callback=_reports,
    metavar="FORMAT=FILE",
    help="Write a report too, such as junit=out.xml; repeatable.",
)
@click.option("--baseline", type=InputFile("the baseline"), metavar="FILE", help="Fail only on what got worse since.")
@click.option("--save-baseline", type=OutputFile(), metavar="FILE", help="Write what --baseline compares with.")
@click.option("--config", type=InputFile("the configuration"), metavar="FILE", help="onnxmerge.toml or pyproject.toml.")
@scripts_option
@click.option("--all", "every", is_flag=True, help="List skipped gates too, and why.")
@batch_size_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@image_options
@sample_options
@model_options
@click.pass_context
def check(
    context: click.Context,
    /,
    models: tuple[str, ...],
    *,
    kind: str,
    every: bool,
    written: tuple[tuple[str, Path], ...],
    save_baseline: Path | None,
    config: str | None,
    allow_scripts: bool,
    **settings: Any,
) -> int:
    """Hold each MODEL to gates, for CI and before it ships: see docs/checking.md.

    Without a MODEL, those that onnxmerge.toml or pyproject.toml in this folder names. With --config and MODELs these
    alone, and what the configuration holds them to.

    Exit codes: 0 all that was checked passed; 1 bad input; 2 usage; 3 a gate failed, or could not be evaluated; 4
    nothing was checked.
    """
    images = take_image_options(settings)
    outputs = [*written, *([] if save_baseline is None else [("json", save_baseline)])]
    for option, given in (("--baseline", settings["baseline"]), ("--save-baseline", save_baseline)):
        if given is not None and len(models) > 1:
            raise UsageError(f"{option} is of one MODEL: check each by itself, or name baselines in onnxmerge.toml")
    planned = config is not None or not models
    if allow_scripts and not planned:
        raise UsageError("--allow-scripts is for configurations; give one (--config), or leave MODEL out")
    plan = _planned(context, config, models) if planned else ()
    if not planned and Path(FILES[0]).is_file():
        complain(f"note: {FILES[0]} is not asked where a MODEL is named; --config {FILES[0]} has it asked")
    with publishing(context) as publication:
        if planned:
            reports = [_checked(each, settings["provider"]) for each in plan]
        else:
            settings["tasks"] = read_tasks(take_tasks(settings))
            known = known_inputs(settings.pop("inputs"))
            reports = [api.check(model, inputs=known, image_options=images, **settings) for model in models]
        for name, path in outputs:
            publication.write_text(path, FORMATS[name](reports))
    if kind != TEXT:
        emit(FORMATS[kind](reports))
    for report in reports if kind == TEXT else ():
        print_check(report, every=every)
    return exit_code_of(reports)


_OF_ALL = ("kind", "every", "written", "config", "provider", "models", "allow_scripts")
"""Options that go with a configuration."""


def _planned(context: click.Context, config: str | None, models: tuple[str, ...]) -> tuple[Planned, ...]:
    """What a configuration names, all of it noted as read; of ``models`` alone, where there are any.

    Raises UsageError where there is none, or options stand beside it.
    """
    from onnxmerge.checking.config import MODEL, PARENT, find_config, of_these, planned  # pydantic is slow to import

    path = find_config(Path.cwd()) if config is None else Path(config)
    if path is None:
        raise UsageError(
            "name a MODEL, in front of --against, or write down in onnxmerge.toml which are checked (docs/checking.md)"
        )
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") == ParameterSource.COMMANDLINE
        if given and option.name not in _OF_ALL:
            told = "leave --config out" if models else "name it"
            raise UsageError(f"{option.opts[0]} is for one MODEL: {told}, or write the option into the configuration")
    files = files_of(context)
    files.reads("the configuration", str(path))
    plan = tuple(planned(path)) if not models else tuple(of_these(planned(path), models))
    for each in plan:
        require_allowed(context, str(path), each.arguments.get("data"))
        for what, file in each.files:
            files.reads(what, file, model=what in (MODEL, PARENT))
    return plan


def _checked(planned: Planned, provider: str) -> CheckReport:
    if planned.model is None:
        return CheckReport(planned.pattern, None, (nothing(planned.why),))
    return api.check(planned.model, provider=provider, **planned.arguments)
