"""``inspect``: which units of a model are interchangeable, what is fixed and why, and the proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmerge.axes.explain import AxisReason, explain
from onnxmerge.axes.spaces import UNIFORM
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.prepare import ModelSource, Prepared, load, sample_from, type_models
from onnxmerge.units.flow import Flow, flow_of
from onnxmerge.units.graph import unit_graph
from onnxmerge.units.layout import Typing
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage, coverage

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class WeightAxis:
    """One axis of one initializer."""

    name: str
    axis: int


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """``size`` interchangeable units; ``varies_with`` names the groups on whose unit their order may depend."""

    id: str
    size: int
    varies_with: tuple[str, ...]
    initializers: tuple[WeightAxis, ...]


@dataclass(frozen=True, slots=True)
class FixedAxis:
    """An axis of an initializer on which nothing moves, and why."""

    initializer: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``inspect`` found. ``certificate`` is None unless asked for."""

    model: str
    nodes: int
    groups: tuple[UnitGroup, ...]
    fixed: tuple[FixedAxis, ...]
    coverage: Coverage
    certificate: Certificate | None
    prepared: Prepared

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, for JSON."""
        return {
            "model": self.model,
            "nodes": self.nodes,
            "groups": [asdict(group) for group in self.groups],
            "fixed": [asdict(axis) for axis in self.fixed],
            "coverage": asdict(self.coverage),
            "certificate": None if self.certificate is None else asdict(self.certificate),
        }

    def explain(self, tensor: str) -> tuple[AxisReason, ...]:
        """Why each axis of a tensor is what it is. Raises UsageError if there is no such tensor."""
        prepared = self.prepared
        return explain(prepared.traced, prepared.trace, prepared.models.weights, tensor, prepared.operators)

    def unit_graph(self) -> nx.MultiGraph:
        """Groups and initializers as a networkx graph."""
        return unit_graph(self.prepared.typing)

    def flow(self) -> Flow:
        """How the groups feed one another, in the order of the network."""
        return flow_of(self.prepared.traced.graph, self.prepared.typing)


def inspect(
    model: ModelSource,
    *,
    certify: bool = False,
    inputs: Mapping[str, SampleInput] | None = None,
    operators: Path | None = None,
    seed: int = 0,
    provider: str = "cpu",
) -> Inspection:
    """Type a model's axes and, with ``certify``, prove every group on the model itself.

    Args:
        model: A path, or a model in memory.
        certify: Permute every group at random and compare outputs in ONNX Runtime.
        inputs: Shape or value of inputs for the traced sample, by name, where the declared ones do not say enough.
        operators: A file of signatures for operators of your own.
        seed: Of the random permutations.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.

    Raises:
        InputError: the model cannot be read, or does not run.

    """
    models = load([model])
    prepared = type_models(models, sample_from(models.template, inputs), operators)
    template = models.template
    return Inspection(
        model=template.label,
        nodes=template.graph.num_nodes(),
        groups=unit_groups(prepared.typing),
        fixed=fixed_axes(prepared.typing),
        coverage=coverage(models.weights[0], prepared.typing),
        certificate=prepared.certify(0, seed=seed, provider=provider) if certify else None,
        prepared=prepared,
    )


def unit_groups(typing: Typing) -> tuple[UnitGroup, ...]:
    """The free spaces with the axes of initializers on which they stand."""
    places: dict[str, dict[WeightAxis, None]] = {}
    for name, layout in typing.initializers.items():
        for block in layout.blocks:
            for index, axis in enumerate(block.axes):
                for space in axis.spaces:
                    places.setdefault(space, {})[WeightAxis(name, index)] = None
    return tuple(
        UnitGroup(space.id, space.size, space.varies_with, tuple(places.get(space.id, ())))
        for space in typing.spaces.values()
        if space.free
    )


def fixed_axes(typing: Typing) -> tuple[FixedAxis, ...]:
    """The axes (longer than 1) of initializers without any free space, uniform ones left out."""
    found = []
    for name, layout in typing.initializers.items():
        for axis, size in enumerate(layout.shape):
            spaces = [typing.spaces[s] for s in dict.fromkeys(s for b in layout.blocks for s in b.axes[axis].spaces)]
            reasons = dict.fromkeys(space.fixed for space in spaces if space.fixed and space.fixed != UNIFORM)
            if size > 1 and reasons and not any(space.free for space in spaces):
                found.append(FixedAxis(name, axis, size, "; ".join(map(str, reasons))))
    return tuple(found)
