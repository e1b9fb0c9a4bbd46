"""The shapes of a network's tensors at other widths of its groups, without its graph: for what it would cost."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.units.layout import Typing
from onnxmerge.units.resize import Widths, resized_layout

Shapes = Mapping[str, tuple[int, ...]]


def shapes_at(shapes: Shapes, typing: Typing, widths: Widths) -> Shapes:
    """The ``shapes`` of tensors, initializers among them, where groups have these widths."""
    layouts = {**typing.activations, **typing.initializers}
    return {
        name: resized_layout(layouts[name], widths).shape if name in layouts else shape
        for name, shape in shapes.items()
    }
