"""``fold``: a model whose low-rank adapters are part of its weights, and which computes the same function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError, ValidationError
from onnxmerge.model.adapters import adapter_rank
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import ROUNDINGS, TOLERANCES, Limits, compare
from onnxmerge.model.difference import show
from onnxmerge.model.fold import Folded, fold_branches
from onnxmerge.model.network import Network
from onnxmerge.model.publication import Publication
from onnxmerge.model.read import read_network
from onnxmerge.model.runtimes.onnx_runtime import read_adapter
from onnxmerge.model.sample import SampleInput, synthesize
from onnxmerge.model.session import open_session
from onnxmerge.model.structure import Numbering, analyse
from onnxmerge.pipeline.prepare import ModelSource, sample_from
from onnxmerge.pipeline.publish import Source, save_apart, sources
from onnxmerge.types import Array
from onnxmerge.version import __version__

SAMPLES = 4
"""Samples on which both models must agree."""

PART = 0.25
"""Of what the branches change of an output, its error may be so much: a wrong fold would change as much again."""


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A model without adapters, its weights computed when they are read.

    ``ranks`` are those of the branches that were folded, ``left`` names what looks like a branch and was not,
    ``adapter`` says how many tensors of a file were put in. ``error`` is the largest difference of outputs, relative to
    the largest value of each, and ``effect`` that which the branches make.
    """

    network: Network
    weights: Mapping[str, Array]
    ranks: tuple[int, ...]
    left: tuple[str, ...]
    adapter: int
    error: float
    effect: float
    read: tuple[Source, ...] = ()

    def save(self, path: str | os.PathLike[str], *, together: Publication | None = None) -> Path:
        """Write the model, whole or not at all.

        With ``together`` it appears when that is published. Raises InputError where it cannot be written, UsageError
        where ``path`` is one of the files that were read.
        """
        metadata = {"onnxmerge.version": __version__, "onnxmerge.folded_from": self.network.sha256}
        return save_apart(self.network, self.weights, path, metadata, self.read, together)


def fold(
    model: ModelSource,
    *,
    adapter: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    provider: str = "cpu",
) -> FoldedModel:
    """Fold the low-rank branches of a model (LoRA) into the layers that they stand beside.

    Args:
        model: A path, or a model in memory.
        adapter: An ``.onnx_adapter`` file: its tensors take the place of inputs, or of initializers, of their names.
        inputs: Shape or value of inputs, see `inspect`.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        InputError: the model or the adapter cannot be read, there is nothing to fold, or the model does not run.
        ValidationError: outputs before and after differ by more than rounding.

    """
    before, after = read_network(model), read_network(model)
    given = {} if adapter is None else read_adapter(Path(adapter))
    for network in (before, after):
        _put_in(network, given, "" if adapter is None else str(adapter))
    folded = fold_branches(after)
    left = _left(after)
    if left and not folded.branches:
        raise InputError(
            f"{before.label}: {left[0]} is not folded: another node reads something of it before it is added, its "
            "layer reads another tensor or shares a weight, or more than numbers and casts stand between"
        )
    if not folded.branches and not given:
        raise InputError(
            f"{before.label}: no low-rank branch beside a layer was found; there is nothing to fold into its weights"
        )
    for key in [key for key in after.model.metadata_props if key.startswith("onnxmerge.")]:
        del after.model.metadata_props[key]  # it is not the merge any more that they tell of
    try:
        error, effect = _proved(before, folded, inputs, provider)
    except InputError as failure:
        raise InputError(f"{before.label}: {str(failure).removeprefix(f'{before.label}: ')}") from failure
    read = sources("the model itself", model, model=True)
    if adapter is not None:
        read = (*read, *sources("the adapter", str(adapter), model=False))
    ranks = tuple(branch.rank for branch in folded.branches)
    return FoldedModel(after, folded.weights, ranks, left, len(given), error, effect, tuple(read))


def _put_in(network: Network, given: Mapping[str, Array], file: str) -> None:
    """Make tensors of an adapter the initializers of their names."""
    graph = network.graph
    values = {str(value.name): value for value in graph.inputs}
    for name, array in given.items():
        value = values.get(name) or graph.initializers.get(name)
        if value is None:
            raise InputError(f"{file}: tensor {name!r} is no input of {network.label}; give the adapter of this model")
        if value.dtype is not None and value.dtype != ir.DataType.from_numpy(array.dtype):
            raise InputError(
                f"{file}: tensor {name!r} is of {array.dtype}, and {network.label} takes {value.dtype.name.lower()}"
            )
        if not _fits(value, array):
            raise InputError(
                f"{file}: tensor {name!r} is {'x'.join(map(str, array.shape))}, and {network.label} takes {value.shape}"
            )
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        if value in graph.inputs:
            graph.inputs.remove(value)
        graph.initializers[name] = value


def _fits(value: ir.Value, array: Array) -> bool:
    """Whether a tensor has the rank and the fixed sizes that are declared; 0 stands for a rank that is left open."""
    if value.shape is None:
        return True
    dims = [dim if isinstance(dim, int) and dim else None for dim in value.shape]
    return len(dims) == array.ndim and all(dim in (None, size) for dim, size in zip(dims, array.shape, strict=True))


def _left(network: Network) -> tuple[str, ...]:
    """What still looks like a branch."""
    structure = analyse(network, Numbering())
    found = ((node, adapter_rank(structure, node)) for node in structure.nodes)
    return tuple(f"the branch of rank {sizes[1]} at {show(node)}" for node, sizes in found if sizes is not None)


def _proved(
    before: Network, folded: Folded, inputs: Mapping[str, SampleInput] | None, provider: str
) -> tuple[float, float]:
    """The largest relative error of outputs, and what the branches change of them.

    Raises ValidationError where the error is more than rounding, more than a part of what the branches do, or nothing.
    """
    sample = sample_from(before, inputs) or synthesize(before, batch=SAMPLES)
    model, label = folded.network.model, before.label
    old = _floats(open_session(before.model, provider=provider).run(dict(sample)))
    new = _floats(open_session(model, weights=folded.weights, provider=provider).run(dict(sample)))
    without = _floats(open_session(model, provider=provider).run(dict(sample)))
    if not old:
        raise ValidationError(
            f"{label}: no output holds floats, so that nothing can be compared; export it without the step that picks "
            "classes"
        )
    names = {str(branch.base.stored.dtype) for branch in folded.branches}
    coarsest = max(names & TOLERANCES.keys(), key=TOLERANCES.__getitem__, default="float32")
    limits = Limits(TOLERANCES[coarsest], ROUNDINGS[coarsest])
    errors, effects = ({name: compare(old[name], other[name], limits) for name in old} for other in (new, without))
    effect = max(each.relative for each in effects.values())
    if not effect and not folded.changes_nothing():
        raise ValidationError(
            f"{label}: on this sample the branches change nothing, so that nothing is proved; give another by --input"
        )
    for name, error in errors.items():
        known = max(PART * effects[name].relative, limits.rounding)
        if error.differs(limits) or error.relative > known:
            raise ValidationError(
                f"{label}: with its branches folded, output {name!r} computes something else (relative error "
                f"{error.relative:.1e}, where the branches change {effects[name].relative:.1e}); nothing was written"
            )
    return max(each.relative for each in errors.values()), effect


def _floats(outputs: Mapping[str, Any]) -> dict[str, Array]:
    return {
        name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and is_floating(value.dtype)
    }
