"""One network as it was read: its graph, where it comes from, and its weights, which stay on disk until asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.arrays import holds_nan, is_floating
from onnxmerge.model.external import reopened
from onnxmerge.model.owned import OwnedRows
from onnxmerge.text import reason
from onnxmerge.types import Array

SOURCE = "onnxmerge.source"
"""Key in the graph's ``meta`` (in memory only): the path or name to put into messages. It survives cloning."""

UNREAD_NAN = "onnxmerge.unread_nan"
"""Key in the graph's ``meta``: names of initializers that hold nan and were left out, because nothing reads them."""

HOLDS_NAN = "onnxmerge.holds_nan"
"""Key in the ``meta`` of an external tensor (in memory only): whether it holds nan, once that was looked up."""


class Weights(Mapping[str, Array]):
    """The initializers of one graph by name, read on each access and kept nowhere.

    External data is memory-mapped for as long as the returned array lives. Arrays are read-only: copy to change.
    float16 comes as ``np.float16``, bfloat16 as ``ml_dtypes.bfloat16``, four-bit types as those of ``ml_dtypes``.

    Raises (on access): KeyError for an unknown name, InputError where the data cannot be read.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, ir.TensorProtocol]) -> None:
        self._tensors = dict(tensors)

    def tensor(self, name: str) -> ir.TensorProtocol:
        """The tensor behind a name: shape, dtype and ``nbytes`` cost nothing, ``tofile`` streams."""
        tensor = self._tensors[name]
        return reopened(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor

    def __getitem__(self, name: str) -> Array:
        tensor = self.tensor(name)
        try:
            array = tensor.numpy()
        except (OSError, ValueError) as error:
            raise InputError(f"tensor {name!r} cannot be read: {reason(error)}") from error
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        view = array.view()
        view.flags.writeable = False
        return view

    def holds_nan(self, name: str) -> bool:
        """Whether there is nan among the floats behind a name; external data that was read from a file is known."""
        tensor = self._tensors[name]
        if not is_floating(tensor.dtype.numpy()):
            return False
        known = tensor.meta.get(HOLDS_NAN) if isinstance(tensor, ir.ExternalTensor) else None
        return holds_nan(self[name]) if known is None else bool(known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __repr__(self) -> str:
        return f"Weights({len(self)} tensors)"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model that was read and normalised (see ``read_network``).

    ``sha256`` is that of the file, followed by its external data files in order of name where there are any; for a
    model that was handed over in memory, that of its serialised form.
    """

    path: Path | None
    model: ir.Model
    sha256: str

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    @property
    def weights(self) -> Weights:
        """All initializers of the main graph (reading lifts those of subgraphs into it)."""
        return Weights(
            {
                name: value.const_value
                for name, value in self.graph.initializers.items()
                if value.const_value is not None
            }
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the network, though it does no harm."""
        return tuple(
            f"{self.label}: initializer {name!r} holds nan; nothing reads it, so it is left out"
            for name in self.model.graph.meta.get(UNREAD_NAN, ())
        )

    @property
    def label(self) -> str:
        """What messages call this network: the path it was read from, or the name of its graph."""
        return label(self.model)


@dataclass(frozen=True, slots=True, eq=False)
class ModelSet:
    """Networks of one structure. ``weights[m]`` are those of ``sources[m]`` under the *template's* names.

    The template is the first network, with initializers untied that are shared by coincidence (see ``pair``), so
    ``weights[0]`` holds exactly the template's initializers. ``border`` are those of the template's outputs that are no
    interface: heads read them, each in its own order of units (see ``heads``), so their units may move. ``owned`` says
    which tokens are whose, where the models' vocabularies differ (None: all models have all).
    """

    template: Network
    weights: tuple[Mapping[str, Array], ...]
    sources: tuple[Network, ...]
    border: frozenset[str] = frozenset()
    owned: OwnedRows | None = None

    def only(self, places: Sequence[int]) -> ModelSet:
        """Some of the models, by their places, under the same template."""
        return replace(
            self,
            weights=tuple(self.weights[place] for place in places),
            sources=tuple(self.sources[place] for place in places),
            owned=None if self.owned is None else replace(self.owned, owners=self.owned.owners[list(places)]),
        )


def label(model: ir.Model) -> str:
    """What messages call a model."""
    source = model.graph.meta.get(SOURCE)
    return str(source) if source is not None else f"model {model.graph.name or 'without a name'!r}"
