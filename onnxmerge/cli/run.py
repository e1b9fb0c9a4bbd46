"""``onnxmerge run``: merge models into one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from onnxmerge.api import MergeOptions, merge, plan
from onnxmerge.api.outcome import MergeReport, MergeResult
from onnxmerge.cli.asked import asked_for, note_files, output_of, size_factor
from onnxmerge.cli.files import STANDARD_OUTPUT, InputFile, OutputFile, OutputFolder, publishing
from onnxmerge.cli.images import image_options, numbers
from onnxmerge.cli.options import known_inputs, measuring_options, model_options, sample_options, scripts_option
from onnxmerge.cli.own import WidthOption, base_methods, listed, own_method_options, word_option
from onnxmerge.cli.tasks import TASK_OPTIONS, read_tasks, task_options
from onnxmerge.cli.vocabulary import vocab_options
from onnxmerge.contracts import AUTO
from onnxmerge.errors import UsageError
from onnxmerge.model.paths import absolute
from onnxmerge.pipeline.methods import METHODS
from onnxmerge.pipeline.options import EFFORTS
from onnxmerge.pipeline.store import begun
from onnxmerge.recipes.recipe import Recipe
from onnxmerge.report.console import print_merge, print_plan
from onnxmerge.report.progress import long_stage, progress_bar
from onnxmerge.report.terminal import complain, emit

if TYPE_CHECKING:
    from onnxmerge.checking.report import CheckReport


class _Run(click.Command):
    """Remembers what was written on the command line, to say it again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as any command does."""
        ctx.meta[_WRITTEN] = tuple(args)
        return super().parse_args(ctx, args)


_WRITTEN = "onnxmerge.written"


def _again(context: click.Context, report: MergeReport) -> str | None:
    """The command that merges in the way that was chosen, and tries nothing; None where nothing was chosen."""
    effort, weighing, widening = report.effort, report.weighing, report.widening
    if effort is None and weighing is None and widening is None:
        return None
    dropped = {"resume"} if report.labelled else {"labels", "resume"}
    if not report.labelled and not report.vectors:
        dropped |= {"vectors", *TASK_OPTIONS}  # they say what labels mean, and labels decide nothing now
    chosen: list[str] = []
    if effort is not None:
        chosen += effort.chosen_flags
        dropped |= {"effort", "method", "refine", "answer"}
    if weighing is not None:
        chosen += weighing.chosen_flags
        dropped.add("weights")
    if widening is not None:
        chosen += widening.chosen_flags
        dropped |= {"width", "within", "smallest_in"}
    options = {name: option for option in context.command.params for name in option.opts if name.startswith("-")}
    dropped |= {str(options[word].name) for word in chosen if word in options}
    kept: list[str] = []
    words = iter(context.meta[_WRITTEN])
    for word in words:
        if word == "--":
            kept += [word, *words]
            break
        name, equals, _ = word.partition("=")
        option = options.get(name)
        own = [word]
        if isinstance(option, click.Option) and not option.is_flag and not equals:
            own.append(next(words, ""))
        if option is None or option.name not in dropped:
            kept += own
    return shlex.join(["onnxmerge", "run", *chosen, *kept])


def _weights(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[float, ...] | Literal["auto"] | None:
    return "auto" if value == AUTO else numbers(context, option, value)


def _calib_of(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """(model, data) of each."""
    found = []
    for value in values:
        model, equals, data = value.partition("=")
        if not model or not equals:
            raise click.BadParameter(f"{value!r}: expected MODEL=DATA, such as a.onnx=images/")
        found.append((model, InputFile(f"the data of {model}").convert(data, option, context)))
    return found


@click.command(cls=_Run, epilog=listed())
@click.argument(
    "models",
    nargs=-1,
    type=InputFile("one of the models", model=True),
    required=True,
    metavar="A.onnx B.onnx... | RECIPE.yaml",
)
@click.option("-o", "--output", type=OutputFile(model=True), help="The merged model.")
@click.option(
    "--calib",
    type=InputFile("the calibration data"),
    metavar="DATA",
    help="Unlabelled data: .npy, .npz, a folder of these or of images, script.py:function.",
)
@click.option(
    "--calib-of",
    multiple=True,
    callback=_calib_of,
    metavar="MODEL=DATA",
    help="Such data of one model's own task; repeat for each model. Without --calib, all of it together is that.",
)
@click.option(
    "--effort",
    type=click.Choice(EFFORTS),
    show_default="balanced",
    help="What is tried to find the best way to merge. fast: match and average; balanced: also zip and solve all "
    "layers, whichever agrees better with the parents' ensemble on held-out data; best: every method and refinement.",
)
@click.option(
    "--method",
    type=click.Choice([*METHODS, AUTO]),
    help="One method instead, see below; auto tries all that match units, or with --base all that add to one, on "
    "held-out calibration data.",
)
@click.option(
    "--labels",
    type=InputFile("the labels"),
    metavar="FILE",
    help="A label for each calibration sample (see docs/choosing.md): auto decides by accuracy, and greedy-soup.",
)
@task_options
@click.option(
    "--weights",
    callback=_weights,
    metavar="W,W,...|auto",
    help="Weight of each model in the mean, by default all equal; auto finds them by what each model knows.",
)
@click.option(
    "--base",
    type=InputFile("the base", model=True),
    metavar="PRETRAINED.onnx",
    help=f"What all models were fine-tuned from ({base_methods()}).",
)
@vocab_options
@own_method_options
@word_option(
    "repair", "Restore the statistics of merged units: of outputs, and of hidden units where BatchNorm was folded away."
)
@word_option(
    "refine",
    "What is done to the average after matching, see below; auto: with --method auto, what restores statistics "
    "is among the repairs to choose from.",
)
@word_option(
    "answer",
    "ensemble: solve the last layers for what the parents answer together, after any method; auto: unless "
    "--method says how to merge.",
)
@click.option(
    "--outputs",
    metavar="MEANING|NAME=MEANING,...",
    help="What outputs are: logits, probabilities, embedding, regression or features; by default it is found out.",
)
@word_option(
    "output_mean",
    "The mean of an embedding, for --answer ensemble; auto drops it where class vectors show that this helps.",
)
@click.option(
    "--rotate/--no-rotate",
    default=False,
    show_default=True,
    help="After matching, rotate the units inside attention heads too, where that changes nothing.",
)
@word_option(
    "heads",
    "separate: keep each model's last linear layers, with outputs of its own; auto: where trailing parts differ.",
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
@click.option(
    "--width",
    type=WidthOption(auto=True),
    metavar="FRACTION|GROUP=FRACTION,...|auto",
    help="Merged units for each unit of a model, up to the number of models (zip methods); by default 1. auto finds "
    "the smallest network --within so many points of the ensemble.",
)
@click.option(
    "--within",
    type=click.FloatRange(0, 100),
    default=MergeOptions().within,
    show_default=True,
    metavar="POINTS",
    help="For --width auto: how far from the ensemble the agreement may be, in points of 100.",
)
@word_option("smallest_in", "For --width auto: what is to be small.")
@word_option(
    "output_type",
    "float: do not quantise the merge of quantised models again; float16: convert it, inputs and outputs apart.",
)
@click.option(
    "--export-for-training",
    is_flag=True,
    help="Make a network that can be trained further; its metadata says what there is to train (docs/training.md).",
)
@measuring_options
@scripts_option
@image_options
@sample_options
@model_options
@click.option(
    "--json",
    "json_file",
    type=OutputFile(dash=True),
    metavar="FILE",
    help="Write the summary as JSON; - prints it instead of the tables.",
)
@click.option(
    "--report",
    type=OutputFile(),
    metavar="FILE.html",
    help="Write a page that shows the merge: agreement, groups, layers, what was tried (docs/reports.md).",
)
@click.option(
    "--card",
    type=OutputFile(),
    metavar="README.md",
    help="Write a model card for the page of the model's repository (docs/outputs.md).",
)
@click.option(
    "--save-recipe",
    type=OutputFile(dash=True),
    metavar="FILE.yaml",
    help="Write down this run, so that `onnxmerge run FILE.yaml` repeats it; - prints it instead of the tables.",
)
@click.option(
    "--work-dir",
    type=OutputFolder(),
    metavar="DIR",
    help="Keep results of stages in this folder, and use those that fit: a run that was killed goes on there.",
)
@click.option("--resume", is_flag=True, help="Refuse a --work-dir that was kept for another merge.")
@click.option(
    "--cluster",
    metavar="local|auto|HOST:PORT",
    help="Measure, match and try on the workers of a Ray cluster: one on this machine for this command, the one that "
    "this machine belongs to, or that of a head (docs/scaling.md).",
)
@click.option(
    "--worker-cpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processor cores of each worker of the --cluster.",
)
@click.option("--dry-run", is_flag=True, help="Pair up, type and certify the models, say what would be done, and stop.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def run(
    context: click.Context,
    /,
    models: tuple[str, ...],
    *,
    json_file: Path | None,
    report: Path | None,
    card: Path | None,
    save_recipe: Path | None,
    work_dir: Path | None,
    resume: bool,
    cluster: str | None,
    worker_cpus: int,
    dry_run: bool,
    quiet: bool,
    **_settings: Any,
) -> None:
    """Merge two or more models of one structure into one of the same size.

    Where only their trailing parts differ, the trunk is merged and each model keeps its own head, with outputs named
    after its file (logits_cats), or by letters where file names do not serve (logits_a).

    The first model gives names, opset and metadata. Every model's groups of units are certified before any unit is
    moved or measured, and OUTPUT is either complete or untouched. A recipe (see docs/recipes.md) says all this in a
    file; options on the command line go before it.
    """
    _require_sense(report, card, work_dir, resume=resume, dry_run=dry_run)
    if dry_run and cluster is not None:
        raise UsageError("--cluster is where a merge is done, and --dry-run makes none; leave one of them out")
    recipe = asked_for(context, models)
    note_files(context, recipe)
    data = recipe.calibration
    inputs: dict[str, Any] = {
        "calibration": None if data is None else data.data,
        "calibration_of": [*data.of.values()] if data is not None and data.of else None,
        "base": recipe.base,
        "vocab": recipe.vocab or None,
        "options": recipe.options,
        "image_options": {} if data is None else data.image_options,
        "inputs": known_inputs(recipe.inputs),
    }
    output = None if dry_run else output_of(recipe)
    _require_apart(work_dir, (output, json_file, report, card, save_recipe))
    texts: dict[Path, str] = {}
    with publishing(context, like=recipe.models[0], factor=size_factor(recipe.options)) as publication:
        if output is None:
            planned = plan(recipe.models, **inputs)
            told, show = planned.to_dict(), partial(print_plan, planned)
        else:
            asked: dict[str, Any] = {
                "labels": recipe.labels,
                "tasks": read_tasks(recipe.tasks),
                "vectors": recipe.vectors,
            }
            stages = nullcontext if quiet else long_stage
            if work_dir is not None and resume and not (quiet or begun(work_dir)):
                complain(f"{work_dir} keeps nothing yet: beginning from the start")
            asked |= {"work_dir": work_dir, "resume": resume, "cluster": cluster, "worker_cpus": worker_cpus}
            asked |= {"progress": progress_bar, "stages": stages, "details": report is not None}
            result = merge(recipe.models, **asked, **inputs)
            with stages("write"):
                written = result.save(output, together=publication)
            again = _again(context, result.report)
            beside = None if result.vocabulary is None else result.vocabulary.file(written)
            told = {**result.report.to_dict(), "output": str(written)}
            told |= {} if beside is None else {"tokens": str(beside)}
            show = partial(print_merge, result.report, written, again, beside=beside)
            command = again or shlex.join(["onnxmerge", "run", *context.meta[_WRITTEN]])
            if card is not None:
                texts[card] = _card_text(result, written, command)
            if report is not None:
                with stages("report"):
                    checked = _checked(result, publication.staged(written), written, recipe)
                    texts[report] = _page_text(result, written, command, checked)
        if json_file is not None:
            texts[json_file] = json.dumps(told, indent=1, default=str) + "\n"
        if save_recipe is not None:
            texts[save_recipe] = _recipe_text(recipe, save_recipe)
        for path, text in texts.items():
            if path != STANDARD_OUTPUT:
                publication.write_text(path, text)
    if STANDARD_OUTPUT in texts:
        emit(texts[STANDARD_OUTPUT])
    elif not quiet:
        show()


def _require_sense(
    report: Path | None, card: Path | None, work_dir: Path | None, *, resume: bool, dry_run: bool
) -> None:
    """Raise UsageError for options that have no effect together."""
    if dry_run and report is not None:
        raise UsageError("--report shows a merge, and --dry-run makes none; leave one of them out")
    if dry_run and card is not None:
        raise UsageError("--card tells of a merge, and --dry-run makes none; leave one of them out")
    if dry_run and work_dir is not None:
        raise UsageError("--work-dir keeps what a merge finds, and --dry-run makes none; leave one of them out")
    if resume and work_dir is None:
        raise UsageError("--resume goes on with what a work folder keeps: name the folder (--work-dir)")


def _require_apart(work_dir: Path | None, outputs: Iterable[Path | None]) -> None:
    """Raise UsageError where the work folder is an output too."""
    if work_dir is not None and any(each is not None and absolute(each) == work_dir for each in outputs):
        raise UsageError(f"--work-dir {work_dir} is to be written as a file too; name another folder")


def _checked(result: MergeResult, staged: Path, written: Path, recipe: Recipe) -> CheckReport:
    from onnxmerge.api.check_merge import check_merge  # gates and formats, which no other run needs

    given = known_inputs(recipe.inputs)
    return check_merge(result, staged, recipe.models, name=str(written), inputs=given, provider=recipe.options.provider)


def _page_text(result: MergeResult, written: Path, command: str, checked: CheckReport) -> str:
    from onnxmerge.report.page import merge_page  # with its styles, which no other run needs

    return merge_page(result, written.name, command, checked)


def _card_text(result: MergeResult, written: Path, command: str) -> str:
    from onnxmerge.report.card import interface, merge_card

    return merge_card(result.report, written.name, command, interface(result.template.graph))


def _recipe_text(recipe: Recipe, file: Path) -> str:
    from onnxmerge.recipes.file import recipe_text  # pydantic is slow to import, and needed for recipes alone

    return recipe_text(recipe, Path.cwd() if file == STANDARD_OUTPUT else file.parent)
