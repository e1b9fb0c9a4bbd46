"""What the outputs of a merge mean, and the linear layers that give them: what all later stages go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from onnxmerge.merging.answer.ensemble import Vectors
from onnxmerge.merging.answer.last_layer import LastLayer
from onnxmerge.merging.answer.meaning import OutputMeaning
from onnxmerge.merging.reconstruction import Answers

ClassVectors: TypeAlias = Mapping[str, Vectors]
"""For an output, the class vectors that each parent's answers are compared with, [classes, width]."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What each float output of a merge means, and the linear ``layers`` that give some of them.

    ``vectors`` are the class vectors that an output is compared with, by its name. ``without`` names the outputs that
    no layer can be solved for. ``answered`` is what the parents gave, where they were run to see what outputs mean and
    it is not too much to keep.
    """

    meanings: Mapping[str, OutputMeaning]
    layers: tuple[LastLayer, ...]
    without: tuple[str, ...]
    vectors: ClassVectors
    answered: Answers | None = None

    def vectors_of(self, meaning: OutputMeaning) -> Vectors | None:
        """The class vectors that an output is read by; None where there are none, or it is not read so."""
        return self.vectors.get(meaning.output) if meaning.meaning == "embedding" else None

    @property
    def directions(self) -> frozenset[str]:
        """The outputs whose directions alone count, and the tensors of the layers that give them."""
        names = {name for name, found in self.meanings.items() if found.meaning == "embedding"}
        tensors = {layer.target.output for layer in self.layers if str(layer.output.name) in names}
        return frozenset(names | tensors)


NO_OUTPUTS = Outputs({}, (), (), {})
"""Where nothing is said of outputs: there is no data, or each head keeps its own."""
