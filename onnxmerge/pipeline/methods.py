"""Every method by name, whatever its kind, and what it needs besides the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from onnxmerge.errors import UsageError
from onnxmerge.matching.align_method import Method
from onnxmerge.matching.joint_method import JointMethod
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.zip_method import ZipMethod
from onnxmerge.merging.task_vectors import TASK_VECTORS, Settings, TaskVectorMethod
from onnxmerge.pipeline.options import MergeOptions

AnyMethod: TypeAlias = Method | ZipMethod | JointMethod | TaskVectorMethod

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


def settings_of(options: MergeOptions) -> Settings | None:
    """The settings of a method that adds task vectors; None for all others."""
    method = METHODS[options.method]
    if not isinstance(method, TaskVectorMethod):
        return None
    return method.settings(options.scale, options.density, options.seed)


def needs(method: AnyMethod) -> str:
    """The options that a method cannot do without, as the command line calls them."""
    if isinstance(method, TaskVectorMethod):
        return "--base"
    if isinstance(method, JointMethod):
        return "--calib, unless --alpha 1"
    return "--calib" if method.needs_activations else ""


def require_base(options: MergeOptions, *, based: bool) -> None:
    """Raise UsageError where a method and what it is given for task vectors contradict each other."""
    method = METHODS.get(options.method)
    if not isinstance(method, TaskVectorMethod):
        given = {"--base": based, "--scale": options.scale is not None, "--density": options.density is not None}
        for name in (name for name, found in given.items() if found):
            raise UsageError(
                f"{name} is for methods {', '.join(TASK_VECTORS)}; method {options.method} does not use it"
            )
        return
    if not based:
        raise UsageError(f"method {method.name} adds up what models learnt since their pretraining: give it (--base)")
    if options.density is not None and method.density is None:
        raise UsageError(f"--density: method {method.name} drops nothing; leave it out, or choose ties or dare")
    if options.density is not None and not 0.0 < options.density <= 1.0:
        raise UsageError(f"--density must lie above 0 and at most at 1, found {options.density}")
    if options.scale is not None and not abs(options.scale) < float("inf"):
        raise UsageError(f"--scale must be a finite number, found {options.scale}")
    if options.refines:
        raise UsageError(f"--refine {options.refine} starts from a matched average: use --method average")
    if options.repair not in ("auto", "none"):
        raise UsageError(
            f"--repair {options.repair} would undo the scale of {method.name}; leave it out (BatchNorm is re-estimated)"
        )
