"""How to merge: the options of the API and of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.errors import UsageError
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.matching.similarity import Objective
from onnxmerge.merging.answer.answer import MeanChoice
from onnxmerge.merging.repair.choice import RepairChoice
from onnxmerge.merging.task_vectors.options import MethodOptions, Scaled
from onnxmerge.merging.task_vectors.registry import TASK_VECTORS, options_of, own_options
from onnxmerge.text import shown

Refinement = Literal["auto", "none", "ls", "regmean"]
OutputType = Literal["keep", "float16"]
HeadsChoice = Literal["auto", "joint", "separate"]
AnswerChoice = Literal["auto", "mean", "ensemble"]
Effort = Literal["fast", "balanced", "best"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
AUTO: Literal["auto"] = "auto"
"""Method or alpha: to be searched (``selection.search``)."""

DEFAULT = "default"
"""The method where nobody asks for one: what an effort finds best (``selection.effort``)."""

ONE_WAY = (
    "alpha",
    "objective",
    "repair",
    "refine",
    "rotate",
    "zip_a",
    "zip_b",
    "share",
    "groups",
)
"""Options of one way to merge: who gives one has chosen the method too."""


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "effort": EFFORTS,
    "objective": get_args(Objective),
    "repair": get_args(RepairChoice),
    "refine": get_args(Refinement),
    "answer": get_args(AnswerChoice),
    "output_mean": get_args(MeanChoice),
    "heads": get_args(HeadsChoice),
    "output_type": get_args(OutputType),
}


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge.

    ``effort`` says how much is tried to find the best way to merge: see ``selection.effort``. It is "balanced" (None)
    unless ``method`` or another option of one way to merge (ONE_WAY) says how; without a method, such options go with
    "mudsc-align". ``alpha`` is the weight of weight-space similarity (mudsc-align, mudsc-zip, c2m3). ``alpha`` and
    ``method`` "auto" are searched (``selection.search``), judged on held-out calibration samples. ``objective`` is the
    weight-space similarity of rebasin and of c2m3 with alpha 1: ``correlation``, or ``inner`` for the inner product of
    the papers. ``repair`` "auto" is chosen on held-out samples too, where there are enough of them
    (``selection.repairing``). ``refine`` "ls" solves every linear layer anew by least squares after matching, in place
    of any repair; "regmean" averages them by the Gram matrices of what they read, and repair follows; "auto" is "none",
    but where both method and repair are searched least squares is one of the repairs to choose from. ``answer``
    "ensemble" solves the last linear layers for what the parents answer together, whatever came before (see
    ``merging.answer``); "auto" does so where the effort chooses, and leaves a method that was asked for as it is.
    ``outputs`` says what outputs are, one meaning for all or NAME=MEANING,... (None: it is found out), ``output_mean``
    what becomes of an embedding's mean: "auto" drops it where class vectors show that this helps. ``rotate`` brings
    spaces that only linear operators see closer by rotation after matching (see ``pipeline.rotating``). ``samples``
    bounds the calibration data (None: all of it). ``zip_a`` and ``zip_b`` are a and b of the zip methods: what the
    similarity of merged units is multiplied by, and the share of its merges that a model may use up inside itself.
    ``weights`` has one positive number for each model, its weight in the mean (None: all equal). ``method_options``
    are those of a method that has options of its own (None: by default): see ``merge_options``. ``heads`` "separate"
    merges up to the last linear layers and keeps what comes behind for each model, with outputs of its own; "auto" does
    so where the models' trailing parts differ, from where they differ. ``until`` names the last nodes (or tensors) to
    merge instead, and implies separate heads. ``share`` below 1 merges that fraction of each group's units, the most
    similar ones, and keeps the others apart. ``width`` is of how many merged units a zip makes each group, as a
    fraction of a model's units: from above 0 to the number of models (None: 1). ``output_type`` float16 converts the
    merged model at the end. ``groups`` are exceptions for single groups.
    """

    method: str = DEFAULT
    alpha: float | Literal["auto"] = 0.5
    objective: Objective = "correlation"
    repair: RepairChoice = "auto"
    refine: Refinement = "auto"
    answer: AnswerChoice = "auto"
    outputs: str | None = None
    output_mean: MeanChoice = "auto"
    effort: Effort | None = None
    rotate: bool = False
    seed: int = 0
    samples: int | None = None
    zip_a: float = 0.5
    zip_b: float = 1.0
    weights: tuple[float, ...] | None = None
    method_options: MethodOptions | None = None
    batch_size: int = BATCH_SIZE
    provider: str = "auto"
    operators: Path | None = None
    heads: HeadsChoice = "auto"
    until: tuple[str, ...] = ()
    share: float = 1.0
    width: float | None = None
    output_type: OutputType = "keep"
    groups: tuple[GroupRule, ...] = ()

    @property
    def weight_share(self) -> float:
        """``alpha`` as a number. Raises UsageError as long as it is to be searched."""
        if self.alpha == AUTO:
            raise UsageError("alpha is to be searched: no value was chosen yet")
        return self.alpha

    @property
    def refines(self) -> bool:
        """Whether linear layers are solved anew for sure."""
        return self.refine in ("ls", "regmean")

    def settled(self) -> MergeOptions:
        """The options with everything settled that follows from other options: effort or method, answer, refinement.

        Raises UsageError where both an effort and one way to merge are asked for, or the options are another method's.
        """
        self._require_choices()
        known = TASK_VECTORS.get(self.method)
        if self.method_options is not None and (known is None or type(self.method_options) is not known.options):
            raise UsageError(f"method_options: {type(self.method_options).__name__} is not of method {self.method}")
        method, effort, refine = self.method, self.effort, self.refine
        given = differing(self)
        own = [name for name in ("method", *ONE_WAY) if name in given]
        if effort is not None and own:
            raise UsageError(f"--effort {effort} finds out how to merge: leave out --{own[0].replace('_', '-')}")
        if method == DEFAULT and own:
            method = "mudsc-align"
        elif method == DEFAULT:
            effort = effort or "balanced"
        answer: AnswerChoice = self.answer
        if answer == AUTO and effort is None:
            answer = "mean"
        if refine == AUTO and effort is None and (method, self.repair) != (AUTO, AUTO):
            refine = "none"
        return replace(self, method=method, effort=effort, answer=answer, refine=refine)

    def _require_choices(self) -> None:
        """Raise UsageError for a word that an option does not know."""
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                if value is None and name == "effort":
                    continue
                raise UsageError(
                    f"--{name.replace('_', '-')}: expected one of {', '.join(known)}, found {shown(value)}"
                )

    @property
    def searches(self) -> bool:
        """Whether something must be searched before models are matched."""
        return AUTO in (self.method, self.alpha)


def merge_options(settings: Mapping[str, Any]) -> MergeOptions:
    """Options from the fields of `MergeOptions` and the method's own options, one by one.

    Raises UsageError for an option that the method does not have, or a value that cannot be meant.
    """
    own = {name: settings[name] for name in own_options() if settings.get(name) is not None}
    options = MergeOptions(**{name: value for name, value in settings.items() if name not in own_options()})
    return (
        replace(options, method_options=options_of(options.method, own, named=options.method != DEFAULT))
        if own
        else options
    )


def own_of(options: MergeOptions) -> MethodOptions | None:
    """The options of the method's own, those by default where none were given; None where it has none."""
    return options.method_options or options_of(options.method, {})


def searches_scale(options: MergeOptions) -> bool:
    """Whether the scale of what is added to a base, or how it changes with depth, is to be found."""
    own = own_of(options)
    return isinstance(own, Scaled) and AUTO in (own.scale, own.depth)


def own_differing(options: MergeOptions) -> Mapping[str, Any]:
    """Those of the method's own options that are not what they are by default, by name."""
    own = options.method_options
    values = {} if own is None else {each.name: (getattr(own, each.name), each.default) for each in fields(own)}
    return {name: value for name, (value, default) in values.items() if value != default}


def differing(options: MergeOptions) -> Mapping[str, Any]:
    """The options that are not what they are by default, by name."""
    default = MergeOptions()
    fields = MergeOptions.__dataclass_fields__
    return {name: getattr(options, name) for name in fields if getattr(options, name) != getattr(default, name)}
