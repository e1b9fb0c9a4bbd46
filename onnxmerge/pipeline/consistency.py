"""Options that contradict each other, or ask for data that was not given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onnxmerge.contracts import AUTO, flag
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.options import MergeOptions, differing
from onnxmerge.text import shown


def require_consistent(options: MergeOptions, models: int, *, calibrated: bool, labelled: bool, based: bool) -> None:
    """Raise UsageError where this number of models cannot be merged by these options and with this data."""
    if models < 2:
        raise UsageError(f"merging takes two models or more, found {models}")
    _require_ranges(options)
    _require_weights(options.weights, models)
    _require_base(options, models, based=based)
    if not calibrated:
        _require_no_data(options)
    require_use(options, differing(options))
    if labelled:
        _require_use_of_labels(options, calibrated=calibrated)
    _require_one_to_one(options)
    _require_width(options, models)
    if options.refinement is not None and options.refinement.restores and options.repair not in (AUTO, "none"):
        raise UsageError(f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out")


def _require_no_data(options: MergeOptions) -> None:
    """Raise UsageError where something is to be measured."""
    given = differing(options)
    refines = options.refinement is not None and "activations" in options.refinement.needs
    for asked, told in (
        ("samples" in given, "--samples says how much calibration data to use"),
        (options.searches, "a search for method or alpha compares activations"),
        (options.searches_scale, "--scale auto and --depth auto compare answers with the parents'"),
        (not options.searches and options.compares_activations, f"method {options.method} compares activations"),
        ("outputs" in given, "--outputs says what is measured"),
        ("output_mean" in given, "--output-mean says what is measured"),
        (refines, f"--refine {options.refine} measures activations"),
        (options.answer == "ensemble", "--answer ensemble measures what the parents say"),
    ):
        if asked:
            raise UsageError(f"{told}: give calibration data (--calib)")


def _require_base(options: MergeOptions, models: int, *, based: bool) -> None:
    """Raise UsageError where a method and what it is given for task vectors contradict each other."""
    method = options.task_vectors
    if method is None:
        if based:
            takers = ", ".join(name for name, each in TASK_VECTORS.items() if each.takes_base)
            raise UsageError(f"--base is for methods {takers}; method {options.method} does not use it")
        return
    if "base" in method.needs and not based:
        without = ", ".join(name for name, each in TASK_VECTORS.items() if "base" not in each.needs)
        raise UsageError(
            f"method {method.name} adds up what models learnt since their pretraining: give it (--base); without it "
            f"{without} merge fine-tunes of one network, and mudsc-align such as were trained apart"
        )
    whole = options.heads != "separate" and not options.until and options.share == 1
    for wrong, told in (
        (
            based and not method.takes_base,
            f"--base: method {method.name} starts from the mean of the models; leave it out",
        ),
        (
            method.models not in (None, models),
            f"method {method.name} merges {method.models} models, found {models}; soup takes any number",
        ),
        (
            options.refinement is not None,
            f"--refine {options.refine} starts from a matched average: use --method average",
        ),
        (
            options.repair not in (AUTO, "none"),
            f"--repair {options.repair} would undo the scale of {method.name}; BatchNorm is re-estimated without it",
        ),
        (not whole, f"method {method.name} merges whole networks: leave --heads, --until and --share out"),
        (
            options.answer == "ensemble",
            f"--answer ensemble solves a matched average; method {method.name} adds to a base",
        ),
    ):
        if wrong:
            raise UsageError(told)


@dataclass(frozen=True, slots=True)
class Use:
    """Which merges an option has an effect on: all whose options ``of`` is true of, in words ``where``."""

    of: Callable[[MergeOptions], bool]
    where: str


USES: Mapping[str, Use] = {
    "rotate": Use(lambda options: options.task_vectors is None, "methods that match units; method {method}"),
    "output_mean": Use(lambda options: options.answer in ("ensemble", AUTO), "--answer ensemble; --answer {answer}"),
}
"""Options that only some merges look at (those without a default of their own say so where they are read)."""


def idle(options: MergeOptions, names: Iterable[str]) -> list[str]:
    """Those of the options of these ``names`` that have no effect together with the others."""
    return [name for name in names if name in USES and not USES[name].of(options)]


def require_use(options: MergeOptions, names: Iterable[str]) -> None:
    """Raise UsageError where an option, of the ``names`` of those that were given, has no effect."""
    for name in idle(options, names):
        where = USES[name].where.format(method=options.method, answer=options.answer)
        raise UsageError(f"{flag(name)} is for {where} does not use it; leave it out")


def _require_ranges(options: MergeOptions) -> None:
    """Raise UsageError for numbers that cannot be meant; NaN is none of them."""
    for name, value, least, most in (
        ("share", options.share, 0, 1),
        ("seed", options.seed, 0, _MOST),
        ("samples", options.samples, 1, _MOST),
        ("batch-size", options.batch_size, 1, _MOST),
    ):
        if value is not None and not least <= value <= most:
            bound = f"from {least} to {most}" if most == 1 else f"of {least} or more, below 2**63"
            raise UsageError(f"--{name}: expected a number {bound}, found {shown(value)}")
    if options.until and options.heads == "joint":
        raise UsageError("--until keeps a head for each model, --heads joint merges them; leave one of them out")


_MOST = (1 << 63) - 1


def _require_weights(weights: tuple[float, ...] | None, models: int) -> None:
    """Raise UsageError unless there is a positive number for each model."""
    if weights is None:
        return
    if len(weights) != models:
        raise UsageError(f"--weights: expected a number for each of the {models} models, found {len(weights)}")
    if not all(0 < weight < math.inf for weight in weights):
        found = ",".join(f"{weight:g}" for weight in weights)
        raise UsageError(
            f"--weights {found}: expected positive numbers; leave out a model that is to count for nothing"
        )


def decidable(options: MergeOptions) -> bool:
    """Whether a merge has something to choose that labels could decide."""
    return options.searches or (options.repair == AUTO and options.refinement is None)


def _require_use_of_labels(options: MergeOptions, *, calibrated: bool) -> None:
    if not calibrated:
        raise UsageError("--labels are of calibration samples: give calibration data (--calib)")
    if options.task_vectors is not None or not decidable(options):
        raise UsageError("--labels decide a choice: give --method auto, --alpha auto or --repair auto")


def _require_one_to_one(options: MergeOptions) -> None:
    """Raise UsageError where units that are matched one to one are wanted of a zip, or apart after a refinement.

    A search leaves the zips out by itself, where it may choose the method.
    """
    zips = options.matcher is not None and options.matcher.zips
    paired = options.refinement is not None and options.refinement.one_to_one
    for name, given in (("--rotate", options.rotate), (f"--refine {options.refine}", paired)):
        if given and zips:
            raise UsageError(f"{name} takes matched units, one to one; method {options.method} zips")
    for told, given in (
        (f"--refine {options.refine} averages merged ones", paired),
        (f"method {options.method} zips", zips),
        ("--method auto may choose a zip", options.method == AUTO),
    ):
        if given and options.share < 1:
            raise UsageError(f"--share {options.share:g} keeps matched units apart, one by one; {told}")


def _require_width(options: MergeOptions, models: int) -> None:
    """Raise UsageError where a zip cannot make groups of that width."""
    if options.width is None:
        return
    if options.matcher is None or not options.matcher.zips:
        zips = ", ".join(name for name, method in MATCHERS.items() if method.zips)
        raise UsageError(f"--width {options.width:g} is for methods {zips}; method {options.method} does not use it")
    if not 0 < options.width <= models:
        raise UsageError(
            f"--width {options.width:g}: expected a number above 0, at most the number of models, {models}"
        )
