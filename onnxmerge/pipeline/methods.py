"""Every method by name, whatever its kind, and what it needs besides the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from onnxmerge.errors import UsageError
from onnxmerge.matching.align_method import Method
from onnxmerge.matching.joint_method import JointMethod
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.zip_method import ZipMethod
from onnxmerge.merging.task_vectors import TASK_VECTORS, TaskVectorMethod
from onnxmerge.pipeline.options import MergeOptions

AnyMethod: TypeAlias = Method | ZipMethod | JointMethod | TaskVectorMethod[Any]

METHODS: Mapping[str, AnyMethod] = {
    **MATCHERS,
    "c2m3": JointMethod("c2m3", "all models at once, to a universe of units (C2M3)"),
    **TASK_VECTORS,
}


def compares_activations(options: MergeOptions) -> bool:
    """Whether the method cannot do without calibration data."""
    method = METHODS[options.method]
    if isinstance(method, TaskVectorMethod):
        return False
    return options.weight_share < 1.0 if isinstance(method, JointMethod) else method.needs_activations


def compares_all_pairs(method: AnyMethod) -> bool:
    """Whether the method compares every model with every other, not only with the first."""
    return isinstance(method, (ZipMethod, JointMethod))


def alpha_of(options: MergeOptions) -> float | None:
    """The share of weight space in what the method compares; None where it compares nothing."""
    method = METHODS[options.method]
    if isinstance(method, TaskVectorMethod):
        return None
    own = None if isinstance(method, JointMethod) else method.alpha
    return options.weight_share if own is None else own


def adds_task_vectors(options: MergeOptions) -> bool:
    """Whether the method adds up what models of one pretraining learnt, and matches nothing."""
    return isinstance(METHODS.get(options.method), TaskVectorMethod)


def needs(method: AnyMethod) -> str:
    """The options that a method cannot do without, as the command line calls them."""
    if isinstance(method, TaskVectorMethod):
        return "--base" if method.needs_base else ""
    if isinstance(method, JointMethod):
        return "--calib, unless --alpha 1"
    return "--calib" if method.needs_activations else ""


def own_defaults(method: AnyMethod) -> str:
    """The options that a method has of its own, with their values by default, as the command line has them."""
    return method.defaults if isinstance(method, TaskVectorMethod) else ""


def require_base(options: MergeOptions, models: int, *, based: bool) -> None:
    """Raise UsageError where a method and what it is given for task vectors contradict each other."""
    method = METHODS.get(options.method)
    if not isinstance(method, TaskVectorMethod):
        if based:
            takers = ", ".join(name for name, each in TASK_VECTORS.items() if each.takes_base)
            raise UsageError(f"--base is for methods {takers}; method {options.method} does not use it")
        return
    if method.needs_base and not based:
        without = ", ".join(name for name, each in TASK_VECTORS.items() if not each.needs_base)
        raise UsageError(
            f"method {method.name} adds up what models learnt since their pretraining: give it (--base); without it "
            f"{without} merge fine-tunes of one network, and mudsc-align such as were trained apart"
        )
    if based and not method.takes_base:
        raise UsageError(f"--base: method {method.name} starts from the mean of the models; leave it out")
    if method.models not in (None, models):
        raise UsageError(f"method {method.name} merges {method.models} models, found {models}; soup takes any number")
    if options.refines:
        raise UsageError(f"--refine {options.refine} starts from a matched average: use --method average")
    if options.repair not in ("auto", "none"):
        raise UsageError(
            f"--repair {options.repair} would undo the scale of {method.name}; leave it out (BatchNorm is re-estimated)"
        )
