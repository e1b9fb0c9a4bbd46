"""What closed forms start from: the parents, their matched average, and data to solve its layers with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.merging.combine import shares_of
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing

T = TypeVar("T")


class Kept(Protocol):
    """Finds what was found of a layer, by its number, before this run was interrupted; else it is computed."""

    def __call__(self, layer: int, compute: Callable[[], T], /) -> T:
        """The result of ``compute``, or what was kept of it."""
        ...


def nothing_kept(_layer: int, compute: Callable[[], T], /) -> T:
    """Where nothing is kept."""
    return compute()


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Data, and the numbers of the ``parents`` that it is for."""

    source: CalibrationSource
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MergeContext:
    """A merged network whose linear layers are to be solved anew.

    Args:
        models: The parents.
        typing: Of their common graph.
        dtypes: Of its tensors, as the trace found them.
        weights: The matched average of ``models``, which is also what solutions are pulled to.
        source: Calibration data; read once, and again for each layer as long as activations exceed ``memory``.
        own: Data of each parent's own, which is part of ``source`` or apart from it; empty where there is none.
        base: The weights of what the parents were fine-tuned from, where that is known.
        shares: Of the parents in the result; equal by default.
        provider: Where the networks run.
        seed: Of the sampled positions.
        traced: The samples that the typing's shapes are of, if that is known.
        whole: Whether all of the data is taken. Else, where ``traced`` is known, as much is taken from all over it as
            solving the layers needs.
        network: The graph that ``weights`` belong to, where groups of it are not as wide as the parents'.
        alike: Tensors that all parents compute alike (see ``merging.alike``); what makes them is not solved.
        directions: Tensors right before the outputs of which only the direction counts (an embedding that is compared
            by cosine). Every sample of every parent's answer gets the same length there before they are averaged, each
            parent counts where its answers vary, and the sample gets its mean length back (``consensus``). All others
            are averaged as they are.
        memory: Bytes of activations that may be kept between layers, of all networks together.
        kept: Has the layers that were solved before this run was interrupted.

    """

    models: ModelSet
    typing: Typing
    dtypes: Mapping[str, np.dtype[Any]]
    weights: Arrays
    source: CalibrationSource
    own: tuple[CalibrationSource, ...] = ()
    base: Arrays | None = None
    shares: tuple[float, ...] | None = None
    provider: str = "cpu"
    seed: int = 0
    traced: int | None = None
    whole: bool = False
    network: Network | None = None
    alike: Collection[str] = ()
    directions: Collection[str] = ()
    memory: int = 1 << 30
    kept: Kept = nothing_kept

    def solved(self, layer: int, solve: Callable[[], T], passing: Callable[[], Iterable[object]]) -> T:
        """What ``solve`` finds for a layer; where that is kept, the networks only run past it, as ``passing`` does."""
        computed = False

        def compute() -> T:
            nonlocal computed
            computed = True
            return solve()

        found = self.kept(layer, compute)
        if not computed:
            deque(passing(), maxlen=0)
        return found

    @property
    def seen(self) -> list[Seen]:
        """What each of the parents is asked about: all about the same data, or each about its own."""
        if self.own:
            return [Seen(source, (index,)) for index, source in enumerate(self.own)]
        return [Seen(self.source, tuple(range(len(self.models.weights))))]

    @property
    def merged(self) -> Network:
        """The graph of the merged network."""
        return self.network or self.models.template

    @property
    def parts(self) -> list[float]:
        """The parents' shares; they add up to 1."""
        return shares_of(self.shares, len(self.models.weights))


@dataclass(slots=True, eq=False)
class Refined:
    """The initializers that changed, by name, and what to tell the user."""

    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
