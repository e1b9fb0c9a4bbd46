"""Options that contradict each other, or ask for data that was not given."""

from __future__ import annotations

from onnxmerge.api.options import AUTO, MergeOptions
from onnxmerge.api.search import choices
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS


def require_consistent(options: MergeOptions, models: int, *, calibrated: bool, labelled: bool) -> None:
    """Raise UsageError where this number of models cannot be merged by these options and with this data."""
    if models < 2:
        raise UsageError(f"merging takes two models or more, found {models}")
    if options.method not in MATCHERS and options.method != AUTO:
        raise UsageError(f"there is no method {options.method!r}; choose one of {', '.join((*MATCHERS, AUTO))}")
    if options.searches:
        choices(options)  # raises where there are none
        if not calibrated:
            raise UsageError("a search for method or alpha compares activations: give calibration data (--calib)")
    elif MATCHERS[options.method].needs_activations and not calibrated:
        raise UsageError(f"method {options.method} compares activations: give calibration data (--calib)")
    if labelled:
        _require_use_of_labels(options, calibrated=calibrated)
    _require_one_to_one(options)
    _require_refinable(options, calibrated=calibrated)


def _require_use_of_labels(options: MergeOptions, *, calibrated: bool) -> None:
    if not calibrated:
        raise UsageError("--labels are of calibration samples: give calibration data (--calib)")
    if not options.searches and (options.repair != AUTO or options.refine != "none"):
        raise UsageError("--labels decide a choice: give --method auto, --alpha auto or --repair auto")


def _require_one_to_one(options: MergeOptions) -> None:
    """A search leaves the zips out by itself, where it may choose the method."""
    if options.method != AUTO and MATCHERS[options.method].zips:
        for flag, given in (("--rotate", options.rotate), (f"--refine {options.refine}", options.refine != "none")):
            if given:
                raise UsageError(f"{flag} takes matched units, one to one; method {options.method} zips")


def _require_refinable(options: MergeOptions, *, calibrated: bool) -> None:
    if options.refine == "none":
        return
    if not calibrated:
        raise UsageError(f"--refine {options.refine} measures activations: give calibration data (--calib)")
    if options.repair not in (AUTO, "none"):
        raise UsageError(f"--refine {options.refine} restores statistics itself; leave --repair {options.repair} out")
