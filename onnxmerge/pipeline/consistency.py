"""Options that contradict each other, or ask for data that was not given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onnxmerge.errors import UsageError
from onnxmerge.matching.align_method import Method
from onnxmerge.matching.joint_method import JointMethod
from onnxmerge.matching.zip_method import ZipMethod
from onnxmerge.merging.task_vectors import TaskVectorMethod
from onnxmerge.pipeline.methods import METHODS, AnyMethod, adds_task_vectors, compares_activations, require_base
from onnxmerge.pipeline.options import AUTO, MergeOptions, differing, searches_scale
from onnxmerge.pipeline.selection.search import choices
from onnxmerge.text import shown


def require_consistent(options: MergeOptions, models: int, *, calibrated: bool, labelled: bool, based: bool) -> None:
    """Raise UsageError where this number of models cannot be merged by these options and with this data."""
    if models < 2:
        raise UsageError(f"merging takes two models or more, found {models}")
    if options.method not in (*METHODS, AUTO):
        raise UsageError(f"there is no method {options.method!r}; choose one of {', '.join((*METHODS, AUTO))}")
    _require_ranges(options)
    _require_weights(options.weights, models)
    require_base(options, models, based=based)
    if options.samples is not None and not calibrated:
        raise UsageError("--samples says how much calibration data to use: give it (--calib)")
    if options.searches:
        choices(options)  # raises where there are none
        if not calibrated:
            raise UsageError("a search for method or alpha compares activations: give calibration data (--calib)")
    elif searches_scale(options) and not calibrated:
        raise UsageError("--scale auto and --depth auto compare answers with the parents': give data (--calib)")
    elif compares_activations(options) and not calibrated:
        raise UsageError(f"method {options.method} compares activations: give calibration data (--calib)")
    for name in ("outputs", "output_mean"):
        if name in differing(options) and not calibrated:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} says what is measured: give calibration data (--calib)")
    require_use(options, differing(options))
    if labelled:
        _require_use_of_labels(options, calibrated=calibrated)
    _require_one_to_one(options)
    _require_apart(options)
    _require_width(options, models)
    _require_refinable(options, calibrated=calibrated)
    _require_answerable(options, calibrated=calibrated)


@dataclass(frozen=True, slots=True)
class Use:
    """Which merges an option has an effect on: all whose options ``of`` is true of, in words ``where``."""

    of: Callable[[MergeOptions], bool]
    where: str


def _by_methods(serves: Callable[[AnyMethod], bool]) -> Use:
    """An option of the methods that it serves, and of a search for the method."""
    names = ", ".join(name for name, method in METHODS.items() if serves(method))
    return Use(
        lambda options: options.method not in METHODS or serves(METHODS[options.method]),
        f"methods {names}; method {{method}}",
    )


def _mixes(method: AnyMethod) -> bool:
    return isinstance(method, JointMethod) or (not isinstance(method, TaskVectorMethod) and method.alpha is None)


def _compares_weights(method: AnyMethod) -> bool:
    return isinstance(method, JointMethod) or (isinstance(method, Method) and method.matched and method.alpha == 1.0)


def _matches(method: AnyMethod) -> bool:
    return not isinstance(method, TaskVectorMethod) and not (isinstance(method, Method) and not method.matched)


USES: Mapping[str, Use] = {
    "alpha": _by_methods(_mixes),
    "objective": _by_methods(_compares_weights),
    "zip_a": _by_methods(lambda method: isinstance(method, ZipMethod)),
    "zip_b": _by_methods(lambda method: isinstance(method, ZipMethod)),
    "groups": _by_methods(_matches),
    "rotate": _by_methods(lambda method: not isinstance(method, TaskVectorMethod)),
    "output_mean": Use(lambda options: options.answer in ("ensemble", AUTO), "--answer ensemble; --answer {answer}"),
}
"""Options that only some merges look at (those without a default of their own say so where they are read)."""


def idle(options: MergeOptions, names: Iterable[str]) -> list[str]:
    """Those of the options of these ``names`` that have no effect together with the others."""
    return [name for name in names if name in USES and not USES[name].of(options)]


def require_use(options: MergeOptions, names: Iterable[str]) -> None:
    """Raise UsageError where an option, of the ``names`` of those that were given, has no effect."""
    for name in idle(options, names):
        where = USES[name].where.format(method=options.method, refine=options.refine, answer=options.answer)
        flag = name if name == "groups" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} is for {where} does not use it; leave it out")


def _require_ranges(options: MergeOptions) -> None:
    """Raise UsageError for numbers that cannot be meant; NaN is none of them."""
    for name, value, least, most in (
        ("alpha", None if options.alpha == AUTO else options.alpha, 0, 1),
        ("zip-a", options.zip_a, 0, 1),
        ("zip-b", options.zip_b, 0, 1),
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
    return options.searches or (options.repair == AUTO and not options.refines)


def _require_use_of_labels(options: MergeOptions, *, calibrated: bool) -> None:
    if not calibrated:
        raise UsageError("--labels are of calibration samples: give calibration data (--calib)")
    if adds_task_vectors(options) or not decidable(options):
        raise UsageError("--labels decide a choice: give --method auto, --alpha auto or --repair auto")


def _require_one_to_one(options: MergeOptions) -> None:
    """A search leaves the zips out by itself, where it may choose the method."""
    if isinstance(METHODS.get(options.method), ZipMethod):
        for flag, given in (("--rotate", options.rotate), ("--refine regmean", options.refine == "regmean")):
            if given:
                raise UsageError(f"{flag} takes matched units, one to one; method {options.method} zips")


def _require_apart(options: MergeOptions) -> None:
    """Raise UsageError where heads or units cannot be kept apart."""
    if adds_task_vectors(options) and (options.heads == "separate" or options.until or options.share < 1):
        raise UsageError(f"method {options.method} merges whole networks: leave --heads, --until and --share out")
    if not 0 <= options.share <= 1:
        raise UsageError(f"--share {options.share:g}: expected a fraction from 0 to 1")
    if options.share == 1:
        return
    for flag, given in (
        ("--refine regmean averages merged ones", options.refine == "regmean"),
        (f"method {options.method} zips", isinstance(METHODS.get(options.method), ZipMethod)),
        ("--method auto may choose a zip", options.method == AUTO),
    ):
        if given:
            raise UsageError(f"--share {options.share:g} keeps matched units apart, one by one; {flag}")


def _require_width(options: MergeOptions, models: int) -> None:
    """Raise UsageError where a zip cannot make groups of that width."""
    if options.width is None:
        return
    if not isinstance(METHODS.get(options.method), ZipMethod):
        zips = ", ".join(name for name, method in METHODS.items() if isinstance(method, ZipMethod))
        raise UsageError(f"--width {options.width:g} is for methods {zips}; method {options.method} does not use it")
    if not 0 < options.width <= models:
        raise UsageError(
            f"--width {options.width:g}: expected a number above 0, at most the number of models, {models}"
        )


def _require_refinable(options: MergeOptions, *, calibrated: bool) -> None:
    if not options.refines:
        return
    if not calibrated:
        raise UsageError(f"--refine {options.refine} measures activations: give calibration data (--calib)")
    if options.refine == "ls" and options.repair not in (AUTO, "none"):
        raise UsageError(f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out")


def _require_answerable(options: MergeOptions, *, calibrated: bool) -> None:
    if options.answer != "ensemble":
        return
    if not calibrated:
        raise UsageError("--answer ensemble measures what the parents say: give calibration data (--calib)")
    if adds_task_vectors(options):
        raise UsageError(f"--answer ensemble solves a matched average; method {options.method} adds to a base")
