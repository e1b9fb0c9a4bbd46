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
from onnxmerge.model.comparison import ROUNDINGS, TOLERANCES
from onnxmerge.model.difference import show
from onnxmerge.model.fold import Branch, Folded, fold_branches
from onnxmerge.model.network import Network
from onnxmerge.model.publication import Publication
from onnxmerge.model.read import read_network
from onnxmerge.model.runtimes.onnx_runtime import read_adapter
from onnxmerge.model.sample import SampleInput, synthesize
from onnxmerge.model.session import open_session
from onnxmerge.model.structure import Numbering, analyse
from onnxmerge.pipeline.prepare import ModelSource, sample_from
from onnxmerge.pipeline.publish import Source, save_apart, sources
from onnxmerge.types import Array, Floats
from onnxmerge.version import __version__

SAMPLES = 4
"""Samples on which both models must agree."""

PART = 0.25
"""Of what a branch adds, the error may be so much: folded wrongly, it would change as much again."""


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A model without adapters, its weights computed when they are read.

    ``ranks`` are those of the branches that were folded, ``left`` names what looks like a branch and was not,
    ``adapter`` says how many tensors of a file were put in. Of the layers that took up branches, ``error`` is the
    largest change of what they give, and ``effect`` the least that a branch adds to it, both relative to it in
    Euclidean norm (0 where nothing was folded).
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
            f"{before.label}: {left[0]} is not of the form that can be folded: two layers without bias, with numbers "
            "and casts between, added once to a layer of the same input whose weight no other node reads"
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
    """Hold each layer that took up branches to what it gave with them, on a sample; see ``FoldedModel``.

    Raises ValidationError where the error is more than rounding, or more than a part of what a branch adds.
    """
    sample = sample_from(before, inputs) or synthesize(before, batch=SAMPLES)
    layers = _layers(folded)
    watched = [name for layer in layers for branch in layer for name in (branch.added, branch.summed)]
    names = [str(layer[-1].kept.name) for layer in layers]
    old = open_session(before.model, outputs=list(dict.fromkeys(watched)) or None, provider=provider).run(dict(sample))
    session = open_session(folded.network.model, weights=folded.weights, outputs=names or None, provider=provider)
    new = session.run(dict(sample))
    errors, effects = [0.0], list[float]()
    for name, layer in zip(names, layers, strict=True):
        right, base = _wide(old[layer[-1].summed]), layer[0].base
        size = float(np.linalg.norm(right)) or 1.0
        error = float(np.linalg.norm(_wide(new[name]) - right)) / size
        added = [float(np.linalg.norm(_wide(old[branch.added]))) / size for branch in layer]
        where, coarsest = f"{before.label}: {show(base.node)}", str(base.stored.dtype)
        if any(not each and branch.does_something for branch, each in zip(layer, added, strict=True)):
            raise ValidationError(
                f"{where}: on this sample its branch adds nothing, so nothing is proved; give another by --input"
            )
        tolerance, rounding = (table.get(coarsest, table["float32"]) for table in (TOLERANCES, ROUNDINGS))
        if not error <= min(tolerance, max(PART * min(added), rounding)):
            raise ValidationError(
                f"{where}: with its branch folded it computes something else (relative error {error:.1e}, where a "
                f"branch adds {min(added):.1e}); nothing was written"
            )
        errors.append(error)
        effects += added
    return max(errors), min(effects, default=0.0)


def _layers(folded: Folded) -> list[list[Branch]]:
    """The branches of each layer that is still there, in the order in which they are added."""
    found: dict[ir.Node, list[Branch]] = {}
    for branch in folded.branches:
        if branch.base.node.graph is folded.network.graph:  # else it stood beside a factor of another, which has it
            found.setdefault(branch.base.node, []).append(branch)
    return list(found.values())


def _wide(value: Any) -> Floats:
    return np.asarray(value).astype(np.float64)
