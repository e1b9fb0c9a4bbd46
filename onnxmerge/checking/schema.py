"""An interface that a model must keep: names, types and shapes of inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.network import Network

Size = int | str | None


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output.

    ``shape`` is None where nothing is said of it; its sizes are numbers, names of free ones or
    None (nothing is known).
    """

    name: str
    type: str | None
    shape: tuple[Size, ...] | None

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.type or '?'}[{shape}]"


@dataclass(frozen=True, slots=True)
class Interface:
    """Inputs and outputs in order; None where nothing is said of them."""

    inputs: tuple[Port, ...] | None
    outputs: tuple[Port, ...] | None


def interface_of(network: Network) -> Interface:
    """What a model declares."""
    return Interface(*(tuple(map(_port, values)) for values in (network.graph.inputs, network.graph.outputs)))


def _port(value: ir.Value) -> Port:
    kind = value.dtype.name.lower() if isinstance(value.type, ir.TensorType) and value.dtype is not None else None
    kind = {"float": "float32", "double": "float64"}.get(kind or "", kind)
    if value.shape is None:
        return Port(str(value.name), kind, None)
    sizes: list[Size] = []
    for axis, size in enumerate(value.shape):
        symbol = size.value if isinstance(size, ir.SymbolicDim) else None
        free = str(symbol) if symbol and symbol != "?" else f"{value.name}/{axis}"
        sizes.append(size if isinstance(size, int) and size > 0 else free)
    return Port(str(value.name), kind, tuple(sizes))


def differences(found: Interface, wanted: Interface, *, names: bool = True) -> Iterator[tuple[str, str, str]]:
    """Where two interfaces part: the port, what it is, what it should be.

    A size that ``wanted`` names must be free; where it has a number, the model takes that one or any. Without ``names``
    ports are compared by position.
    """
    for kind in ("input", "output"):
        ours: tuple[Port, ...] = getattr(found, f"{kind}s") or ()
        theirs: tuple[Port, ...] | None = getattr(wanted, f"{kind}s")
        if theirs is None:
            continue
        known = {port.name: port for port in ours}
        pairs = [(known.get(port.name), port) for port in theirs]
        if not names:
            pairs = [(ours[place] if place < len(ours) else None, port) for place, port in enumerate(theirs)]
        for mine, port in pairs:
            if mine is None:
                others = ", ".join(known) or "none"
                yield f"{kind} {port.name}", f"missing (there are: {others})", str(port)
            elif not _fits(mine, port):
                yield f"{kind} {port.name}", str(mine), str(port)
        extra = [name for name in known if name not in {port.name for port in theirs}]
        if names and extra and len(ours) > len(theirs):
            yield f"{kind} {extra[0]}", "there", "no such " + kind


def _fits(found: Port, wanted: Port) -> bool:
    if wanted.type is not None and found.type != wanted.type:
        return False
    if wanted.shape is None:
        return True
    if found.shape is None or len(found.shape) != len(wanted.shape):
        return False
    return all(
        size is None or (isinstance(mine, str) or mine == size)
        for mine, size in zip(found.shape, wanted.shape, strict=True)
    )
