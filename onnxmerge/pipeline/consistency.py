"""Options that contradict each other, or ask for data that was not given.

What a method or refinement does not have of its own is refused by what it says of itself (``options.settled``). Here
stand the options that every merge has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from onnxmerge.contracts import AUTO, flag
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.options import MergeOptions, differing
from onnxmerge.text import shown

_MOST = (1 << 63) - 1


def require_consistent(
    options: MergeOptions, models: int, *, calibrated: bool, labelled: bool | None, based: bool, own: bool = False
) -> None:
    """Raise UsageError where this number of models cannot be merged by these options and with this data.

    ``labelled`` is None where nobody says yet whether there are labels.
    """
    _require_none(_numbers(options, models))
    _require_none(_base(options, models, based=based))
    _require_none(_weighing(options))
    _require_none(_training(options))
    told = (
        f"method {options.method} takes models by their accuracy on held-out samples: give samples and their labels "
        "(--calib, --labels)"
    )
    _require_none([(options.chooses_models and labelled is False, told)])
    if not calibrated:
        _require_none((wrong, f"{told}: give calibration data (--calib)") for wrong, told in _data(options))
    refinement = options.refinement
    needs_own = refinement is not None and "own data" in refinement.needs and not own
    told = f"--refine {options.refine} measures each model on data of its own: give that of each (--calib-of)"
    _require_none([(needs_own, told)])
    require_use(options, differing(options))
    if labelled:
        added = options.task_vectors is not None and not options.chooses_models
        no_data = not calibrated, "--labels are of calibration samples: give calibration data (--calib)"
        told = f"--labels decide nothing where what models learnt is added up (method {options.method}); leave them out"
        choices = "--method auto, --method greedy-soup, --alpha auto, --weights auto, --width auto or --repair auto"
        no_choice = not decidable(options), f"--labels decide a choice: give {choices}"
        _require_none([no_data, (added, told), no_choice])
    _require_none(_pairs(options))


def _require_none(faults: Iterable[tuple[bool, str]]) -> None:
    """Raise UsageError for the first that is one."""
    for wrong, told in faults:
        if wrong:
            raise UsageError(told)


def _numbers(options: MergeOptions, models: int) -> Iterator[tuple[bool, str]]:
    """Numbers that cannot be meant; NaN is none of them."""
    yield models < 2, f"merging takes two models or more, found {models}"
    for name, least, most in (("share", 0, 1), ("seed", 0, _MOST), ("samples", 1, _MOST), ("batch_size", 1, _MOST)):
        value = getattr(options, name)
        bound = f"from {least} to {most}" if most == 1 else f"of {least} or more, below 2**63"
        wrong = value is not None and not least <= value <= most
        yield wrong, f"{flag(name)}: expected a number {bound}, found {shown(value)}"
    both = bool(options.until) and options.heads == "joint"
    yield both, "--until keeps a head for each model, --heads joint merges them; leave one of them out"
    weights = options.given_weights or (1.0,) * models
    told = f"--weights: expected a number for each of the {models} models, found {len(weights)}"
    yield len(weights) != models, told
    given = ",".join(f"{weight:g}" for weight in weights)
    told = f"--weights {given}: expected positive numbers; leave out a model that is to count for nothing"
    yield not all(0 < weight < math.inf for weight in weights), told
    yield from _widths(options, models)


def _widths(options: MergeOptions, models: int) -> Iterator[tuple[bool, str]]:
    """Widths that cannot be meant, or of what has its parents' own."""
    if options.width is None:
        return
    given = options.width if isinstance(options.width, str) else f"{options.width:g}"
    zips = ", ".join(name for name, each in MATCHERS.items() if each.zips)
    told = f"--width {given} is for methods {zips}; method {options.method} does not use it"
    yield options.matcher is None or not options.matcher.zips, told
    for _, width in options.given_widths:
        told = f"--width {given}: expected a number above 0, at most the number of models, {models}"
        yield not 0 < width <= models, told
    yield not 0 <= options.within <= 100, f"--within: expected points from 0 to 100, found {shown(options.within)}"
    told = f"--width {AUTO} finds the widths of one way to merge: give numbers in place of auto"
    yield options.widens and options.searches, told


def _base(options: MergeOptions, models: int, *, based: bool) -> Iterator[tuple[bool, str]]:
    """A method for models of one pretraining, and what it is given."""
    method, repair = options.task_vectors, options.repair
    if method is None:
        takers = ", ".join(name for name, each in TASK_VECTORS.items() if each.takes_base)
        told = f"method {options.method} does not use it; name one, or leave --base out"
        yield based, f"--base is for methods {takers}; {told}"
        return
    without = ", ".join(name for name, each in TASK_VECTORS.items() if "base" not in each.needs)
    told = f"method {method.name} adds up what models learnt since their pretraining: give it (--base); without it "
    told += f"{without} merge fine-tunes of one network, and mudsc-align such as were trained apart"
    yield "base" in method.needs and not based, told
    told = f"--base: method {method.name} starts from the mean of the models; leave it out"
    yield based and not method.takes_base, told
    told = f"method {method.name} merges {method.models} models, found {models}; soup takes any number"
    yield method.models not in (None, models), told
    told = f"--refine {options.refine} starts from a matched average: use --method average"
    yield options.refinement is not None and not options.refinement.any_start, told
    told = f"--repair {repair} would undo the scale of {method.name}; leave it out (BatchNorm is re-estimated)"
    yield repair not in (AUTO, "none"), told
    parts = options.heads == "separate" or bool(options.until) or options.share < 1
    yield parts, f"method {method.name} merges whole networks: leave --heads, --until and --share out"
    told = f"--answer ensemble solves a matched average; method {method.name} adds to a base"
    yield options.answer == "ensemble", told


def _weighing(options: MergeOptions) -> Iterator[tuple[bool, str]]:
    """Merges whose weights cannot be found: they are found for one way to merge, by what all models answer."""
    if not options.weighs:
        return
    told = f"--weights {AUTO} is for matched averages; method {options.method} adds up what models learnt: give numbers"
    yield options.task_vectors is not None, told
    told = f"--weights {AUTO} weighs the models in one way to merge: leave --method {AUTO} out (--effort best)"
    yield options.method == AUTO, told
    yield options.searches, f"--weights {AUTO} weighs the models in one way to merge: give numbers in place of auto"
    told = f"--weights {AUTO} compares what the models answer together, and separate heads answer each for itself"
    yield options.heads == "separate" or bool(options.until), f"{told}: give numbers"


def _training(options: MergeOptions) -> Iterator[tuple[bool, str]]:
    """Merges that are to be trained further, and are no network as their parents are."""
    if not options.export_for_training:
        return
    told = "--export-for-training makes a network that is trained as its parents were:"
    parts = options.heads == "separate" or bool(options.until)
    yield parts, f"{told} heads apart are of no parent's class; leave --heads and --until out"
    resized = options.width is not None or options.share < 1
    yield resized, f"{told} other widths are of no parent's class; leave --width and --share out"
    yield options.output_type == "float16", f"{told} in floats; leave --output-type float16 out, and convert it later"


def _data(options: MergeOptions) -> Iterator[tuple[bool, str]]:
    """What is to be measured."""
    given = differing(options)
    yield "samples" in given, "--samples says how much calibration data to use"
    yield options.chooses_models, f"method {options.method} takes models by their accuracy on held-out samples"
    yield options.weighs, f"--weights {AUTO} compares what the models answer"
    yield options.widens, f"--width {AUTO} compares what the models answer"
    yield options.searches, "a search for method or alpha compares activations"
    yield options.searches_scale, "--scale auto and --depth auto compare answers with the parents'"
    yield options.compares_activations, f"method {options.method} compares activations"
    yield "outputs" in given, "--outputs says what is measured"
    yield "output_mean" in given, "--output-mean says what is measured"
    yield options.refinement is not None, f"--refine {options.refine} measures activations"
    yield options.repair not in (AUTO, "none"), f"--repair {options.repair} measures activations"
    yield options.answer == "ensemble", "--answer ensemble measures what the parents say"


def _pairs(options: MergeOptions) -> Iterator[tuple[bool, str]]:
    """Units that are to be matched one to one, and a zip; a search leaves zips out where it may choose the method."""
    refinement, apart = options.refinement, options.share < 1
    zips = options.matcher is not None and options.matcher.zips
    paired = refinement is not None and refinement.one_to_one
    told = f"takes matched units, one to one; method {options.method} zips"
    yield options.rotate and zips, f"--rotate {told}"
    yield paired and zips, f"--refine {options.refine} {told}"
    told = f"--share {options.share:g} keeps matched units apart, one by one;"
    yield apart and paired, f"{told} --refine {options.refine} averages merged ones"
    yield apart and zips, f"{told} method {options.method} zips"
    yield apart and options.method == AUTO, f"{told} --method auto may choose a zip"
    restores = refinement is not None and refinement.restores and options.repair not in (AUTO, "none")
    yield restores, f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out"


USES: Mapping[str, tuple[Callable[[MergeOptions], bool], str]] = {
    "rotate": (lambda options: options.task_vectors is None, "methods that match units; method {0.method}"),
    "output_mean": (lambda options: options.answer in ("ensemble", AUTO), "--answer ensemble; --answer {0.answer}"),
    "within": (lambda options: options.widens, "--width auto; a merge of given widths"),
    "smallest_in": (lambda options: options.widens, "--width auto; a merge of given widths"),
}
"""Options that only some merges look at: which, and in words (others say so where they are read)."""


def idle(options: MergeOptions, names: Iterable[str]) -> list[str]:
    """Those of the options of these ``names`` that have no effect together with the others."""
    return [name for name in names if name in USES and not USES[name][0](options)]


def require_use(options: MergeOptions, names: Iterable[str]) -> None:
    """Raise UsageError where an option, of the ``names`` of those that were given, has no effect."""
    for name in idle(options, names):
        raise UsageError(f"{flag(name)} is for {USES[name][1].format(options)} does not use it; leave it out")


def decidable(options: MergeOptions) -> bool:
    """Whether a merge has something to choose that labels could decide."""
    searched = options.searches or options.weighs or options.widens or options.chooses_models
    return searched or (options.repair == AUTO and options.refinement is None)
