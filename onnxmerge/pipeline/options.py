"""How to merge: the options of the API and of the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.contracts import AUTO, Contract, O, flag
from onnxmerge.errors import UsageError
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.answer.answer import MeanChoice
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.merging.repair.repairs import REPAIRS
from onnxmerge.merging.task_vectors import TASK_VECTORS, Scaled, TaskVectorMethod
from onnxmerge.pipeline.methods import METHODS, OWN_OPTIONS, takers
from onnxmerge.text import shown

OutputType = Literal["keep", "float", "float16"]
HeadsChoice = Literal["auto", "joint", "separate"]
AnswerChoice = Literal["auto", "mean", "ensemble"]
VocabChoice = Literal["union", "first"]
Effort = Literal["fast", "balanced", "best"]
Size = Literal["parameters", "flops"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
DEFAULT = "default"
"""The method where nobody asks for one: what an effort finds best (``selection.effort``)."""

UNNAMED = "mudsc-align"
"""The method where only other options of one way to merge are given."""

ONE_WAY = ("repair", "refine", "rotate", "share")
"""Options of one way to merge, beside those that methods have of their own: who gives one has chosen the method too."""


CHOICES: Mapping[str, tuple[str, ...]] = {
    "effort": EFFORTS,
    "repair": (AUTO, "none", *REPAIRS),
    "refine": (AUTO, "none", *REFINEMENTS),
    "answer": get_args(AnswerChoice),
    "output_mean": get_args(MeanChoice),
    "heads": get_args(HeadsChoice),
    "output_type": get_args(OutputType),
    "merged_vocab": get_args(VocabChoice),
    "smallest_in": get_args(Size),
}


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How to merge.

    ``effort`` says how much is tried to find the best way to merge: see ``selection.effort``. It is "balanced" (None)
    unless ``method`` or another option of one way to merge (ONE_WAY) says how; without a method, such options go with
    UNNAMED. ``own`` are the options that method and refinement have of their own, by name, those by default left
    out: see ``merge_options``. A number among them may be "auto", as ``method`` may: they are searched
    (``selection.search``), judged on held-out calibration samples. ``repair`` "auto" is chosen on held-out samples too,
    where there are enough of them (``selection.repairing``). ``refine`` "ls" solves every linear layer anew by least
    squares after matching, in place of any repair; "regmean" averages them by the Gram matrices of what they read, and
    repair follows; "auto" is "none", but where both method and repair are searched, refinements that restore statistics
    are among the repairs to choose from. ``answer`` "ensemble" solves the last linear layers for what the parents
    answer together, whatever came before (see ``merging.answer``); "auto" does so where the effort chooses, and leaves
    a method that was asked for as it is. ``outputs`` says what outputs are, one meaning for all or NAME=MEANING,...
    (None: it is found out), ``output_mean`` what becomes of an embedding's mean: "auto" drops it where class vectors
    show that this helps. ``rotate`` brings spaces that only linear operators see closer by rotation after matching (see
    ``pipeline.rotating``). ``samples`` bounds the calibration data (None: all of it). ``weights`` has one positive
    number for each model, its weight in the mean (None: all equal); "auto" finds them by what each model knows
    (``selection.weighing``). ``heads`` "separate" merges up to the last linear
    layers and keeps what comes behind for each model, with outputs of its own; "auto" does so where the models'
    trailing parts differ, from where they differ. ``until`` names the last nodes (or tensors) to merge instead, and
    implies separate heads. ``share`` below 1 merges that fraction of each group's units, the most similar ones, and
    keeps the others apart. ``width`` is of how many merged units a zip makes each group, as a fraction of a model's
    units: from above 0 to the number of models (None: 1), or for single groups GROUP=FRACTION,... by id or pattern;
    "auto" finds the widths of the smallest network, by ``smallest_in``, that is within so many points, ``within``, of
    the ensemble (``selection.widening``). ``output_type`` float16 converts the merged model at the end,
    float keeps the merge of quantised models in floats; else it is quantised as the first of them is.
    ``merged_vocab`` says which tokens the merged model has where those of the models differ: the ``union``, or those of
    the ``first``.
    ``export_for_training`` makes a network that can be trained further, with the roles of its tensors in the file's
    metadata (``model.training``).
    """

    method: str = DEFAULT
    own: tuple[tuple[str, Any], ...] = ()
    repair: str = AUTO
    refine: str = AUTO
    answer: AnswerChoice = "auto"
    outputs: str | None = None
    output_mean: MeanChoice = "auto"
    effort: Effort | None = None
    rotate: bool = False
    seed: int = 0
    samples: int | None = None
    weights: tuple[float, ...] | Literal["auto"] | None = None
    batch_size: int = BATCH_SIZE
    provider: str = "auto"
    operators: Path | None = None
    heads: HeadsChoice = "auto"
    until: tuple[str, ...] = ()
    share: float = 1.0
    width: float | str | None = None
    within: float = 1.0
    smallest_in: Size = "parameters"
    output_type: OutputType = "keep"
    merged_vocab: VocabChoice = "union"
    export_for_training: bool = False

    @property
    def matcher(self) -> Matcher[Any] | None:
        """The method, where it matches units; None for another kind, or while it is to be searched."""
        return MATCHERS.get(self.method)

    @property
    def task_vectors(self) -> TaskVectorMethod[Any] | None:
        """The method, where it adds up what models of one pretraining learnt, and matches nothing."""
        return TASK_VECTORS.get(self.method)

    @property
    def refinement(self) -> Refinement[Any] | None:
        """What changes layers for sure after averaging; None where nothing does."""
        return REFINEMENTS.get(self.refine)

    @property
    def refinements(self) -> tuple[Refinement[Any], ...]:
        """What may change layers after averaging."""
        if self.refine == AUTO:
            return tuple(each for each in REFINEMENTS.values() if each.restores)
        return () if self.refinement is None else (self.refinement,)

    @property
    def contracts(self) -> tuple[Contract[Any], ...]:
        """What its own options may be of: the method, or all that a search tries, and the refinement."""
        if self.method == AUTO:
            return (*MATCHERS.values(), *self.refinements)
        return (METHODS[UNNAMED if self.method == DEFAULT else self.method], *self.refinements)

    def own_of(self, contract: Contract[O]) -> O:
        """The own options of the method or the refinement. Raises UsageError for a value that cannot be meant."""
        return contract.own(dict(self.own))

    def by(self, method: str, refine: str, **own: Any) -> MergeOptions:
        """The same by another method and refinement, with what they have of the own options and of ``own``."""
        found = replace(self, method=method, refine=refine, own=tuple({**dict(self.own), **own}.items()))
        names, differ = {name for each in found.contracts for name in each.option_names}, own_differing(found)
        return replace(found, own=tuple((name, differ[name]) for name in OWN_OPTIONS if name in names & {*differ}))

    @property
    def moves(self) -> bool:
        """Whether units are matched, rotated or made more of: for all of this their groups must be proved.

        Of task vectors that shows later, when all models are found to be in one order, or not.
        """
        if self.rotate or self.share < 1 or self.width is not None:
            return True
        return self.method not in TASK_VECTORS and (self.matcher is None or self.matcher.moves)

    @property
    def alpha(self) -> float | None:
        """The share of weight space in what the method compares; None where that is not known, or it matches nothing.

        Raises UsageError as long as it is to be searched.
        """
        return None if self.matcher is None else self.matcher.alpha(self.own_of(self.matcher))

    @property
    def compares_activations(self) -> bool:
        """Whether the method cannot do without calibration data."""
        return self.matcher is not None and self.matcher.compares_activations(self.own_of(self.matcher))

    @property
    def groups(self) -> tuple[GroupRule, ...]:
        """The exceptions for single groups, where the method has such."""
        return tuple(dict(self.own).get("groups", ()))

    def settled(self) -> MergeOptions:
        """The options with everything settled that follows from other options: effort or method, answer, refinement.

        Raises UsageError where both an effort and one way to merge are asked for, or the options are another method's.
        """
        self._require_choices()
        method, effort, refine = self.method, self.effort, self.refine
        own = [*(name for name in ("method", *ONE_WAY) if name in differing(self)), *dict(self.own)]
        if effort is not None and own:
            raise UsageError(f"--effort {effort} finds out how to merge: leave out {flag(own[0])}")
        if method == DEFAULT and own:
            method = UNNAMED
        elif method == DEFAULT:
            effort = effort or "balanced"
        answer: AnswerChoice = self.answer
        if answer == AUTO and effort is None:
            answer = "mean"
        if refine == AUTO and effort is None and (method, self.repair) != (AUTO, AUTO):
            refine = "none"
        found = replace(self, method=method, effort=effort, answer=answer, refine=refine)
        _require_own(found, self)
        return found.by(method, refine)

    def _require_choices(self) -> None:
        """Raise UsageError for a word that an option does not know."""
        if self.method not in (*METHODS, AUTO, DEFAULT):
            raise UsageError(f"there is no method {self.method!r}; choose one of {', '.join((*METHODS, AUTO))}")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                if value is None and name == "effort":
                    continue
                raise UsageError(f"{flag(name)}: expected one of {', '.join(known)}, found {shown(value)}")
        if isinstance(self.weights, str) and self.weights != AUTO:
            raise UsageError(f"--weights: expected {AUTO}, or a number for each model, found {shown(self.weights)}")
        if isinstance(self.width, str) and self.width != AUTO:
            widths_of_groups(self.width)

    @property
    def searches(self) -> bool:
        """Whether something must be searched before models are matched."""
        return self.method == AUTO or any(
            value == AUTO and OWN_OPTIONS[name].described.tried for name, value in self.own
        )

    @property
    def weighs(self) -> bool:
        """Whether it is to be found how much each model counts."""
        return self.weights == AUTO

    @property
    def widens(self) -> bool:
        """Whether the widths of groups are to be found."""
        return self.width == AUTO

    @property
    def given_widths(self) -> tuple[tuple[str, float], ...]:
        """Patterns of groups, each with how many merged units there are for each unit of a model; of two, the last.

        Empty where none are asked for, or as long as they are to be found.
        """
        if self.width is None or self.widens:
            return ()
        return widths_of_groups(self.width) if isinstance(self.width, str) else (("*", self.width),)

    @property
    def given_weights(self) -> tuple[float, ...] | None:
        """The weight of each model, where it is said; None where all are equal, or as long as it is to be found."""
        return None if isinstance(self.weights, str) else self.weights

    @property
    def chooses_models(self) -> bool:
        """Whether it is to be found by labels which of the models are averaged."""
        return self.task_vectors is not None and "labels" in self.task_vectors.needs

    @property
    def searches_scale(self) -> bool:
        """Whether the scale of what is added to a base, or how it changes with depth, is to be found."""
        own = None if self.task_vectors is None else self.own_of(self.task_vectors)
        return isinstance(own, Scaled) and AUTO in (own.scale, own.depth)


def widths_of_groups(text: str) -> tuple[tuple[str, float], ...]:
    """Patterns of groups with their widths, of GROUP=FRACTION,...; raises UsageError for any other text."""
    found = []
    for part in text.split(","):
        pattern, _, number = part.rpartition("=")
        try:
            found.append((pattern.strip(), float(number)))
        except ValueError:
            pattern = ""
        if not pattern.strip():
            told = f"a number, {AUTO}, or GROUP=NUMBER,... such as p0=1.5,p2=2"
            raise UsageError(f"--width: expected {told}, found {shown(text)}")
    return tuple(found)


def _require_own(options: MergeOptions, asked: MergeOptions) -> None:
    """Raise UsageError for an own option that method and refinement do not have, or a value that cannot be meant.

    ``asked`` are the options as the user gave them: who chose no method, or no refinement, is told to choose one.
    """
    known = {name for contract in options.contracts for name in contract.option_names}
    for name, _ in options.own:
        of_method = OWN_OPTIONS[name].takers[0] in METHODS
        searched = (options.method if of_method else options.refine) == AUTO
        if name in known and not (searched and OWN_OPTIONS[name].described.alone):
            continue
        chosen, told = f"--refine {options.refine}", "choose one (--refine)"
        named = asked.refine != AUTO
        if of_method:
            chosen, told, named = f"method {options.method}", "choose one (--method)", asked.method != DEFAULT
        raise UsageError(f"{takers(name)}; {f'{chosen} does not use it; leave it out' if named else told}")
    for contract in options.contracts:
        options.own_of(contract)


def merge_options(settings: Mapping[str, Any]) -> MergeOptions:
    """Options from the fields of `MergeOptions` and the own options of methods and refinements, one by one.

    Raises UsageError for an option that the method does not have, or a value that cannot be meant.
    """
    own = tuple((name, settings[name]) for name in OWN_OPTIONS if settings.get(name) is not None)
    options = MergeOptions(**{name: value for name, value in settings.items() if name not in OWN_OPTIONS}, own=own)
    if options.method != DEFAULT:
        options.settled()
    return options


def own_differing(options: MergeOptions) -> Mapping[str, Any]:
    """Those of the own options, of method and refinement, that are not what they are by default, by name."""
    every = reversed(options.contracts)
    default = {each.name: each.default for contract in every for each in fields(contract.options)}
    return {name: value for name, value in options.own if value != default.get(name)}


def differing(options: MergeOptions) -> Mapping[str, Any]:
    """The options that are not what they are by default, by name, but for own ones."""
    default = MergeOptions()
    pairs = {name: (getattr(options, name), getattr(default, name)) for name in COMMON}
    return {name: value for name, (value, usual) in pairs.items() if value != usual}


def without(options: MergeOptions, names: Collection[str]) -> MergeOptions:
    """The options with those of some names as they are by default: for what does not depend on them."""
    default = MergeOptions()
    return replace(options, **{name: getattr(default, name) for name in names})


COMMON = tuple(each.name for each in fields(MergeOptions) if each.name != "own")
"""The options that every merge has."""
