"""What runs networks: the contract of a runtime, and what is wrong in it as one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxmerge.contracts import Contract, Options
from onnxmerge.errors import InputError, OnnxmergeError, ResourceError
from onnxmerge.text import clamped, said

_NO_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad.alloc|out of memory|Available memory of \d+ is smaller")


class Value(Protocol):
    """A tensor wherever a runtime has it; ``np.asarray`` brings it here. What is no tensor has no ``dtype``."""

    @property
    def dtype(self) -> np.dtype[Any] | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Running(Protocol):
    """A network that a runtime has opened. Whatever it raises is `translated`."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Sequence[Any]:
        """The outputs of these names as arrays (sequences as lists)."""

    def values(self, names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:
        """The same, left where they are; what another run gave may be fed."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a network is to run.

    Args:
        optimise: Whether operators may be fused and folded (off: every node runs as it is written).
        alternating: Whether other networks run between its runs, so that its threads are not to wait busily for the
            next one.
        at_once: Whether a node runs as soon as it can, that which comes first in the graph first: where outputs are
            measured of what is inside, none of it waits for the last of them.
        weights: Inputs that are weights.
        looked_into: Whether most of what is inside is read whole, so that values are to lie as the graph has them.

    """

    optimise: bool = False
    alternating: bool = False
    at_once: bool = False
    weights: frozenset[str] = frozenset()
    looked_into: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime(Contract[Options]):
    """What opens networks, on a provider.

    ``providers`` are what ``--provider`` takes, and what the metadata of merged files calls each. ``missing`` says why
    one of them cannot be used on this machine.
    """

    options: type[Options] = field(default=Options, init=False)
    providers: Mapping[str, str]
    open: Callable[[ir.Model, str, SessionOptions], Running]
    missing: Callable[[str], str | None] = lambda _provider: None


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what a runtime raises as an InputError that says ``what``, and why; ours as they are."""
    try:
        yield
    except OnnxmergeError:
        raise
    except Exception as error:  # what runtimes raise shares no base
        raise refusal(error, what) from error


def refusal(error: BaseException, what: str) -> InputError:
    """What a runtime refused, as an error of ours: ``what``, and why."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        node = re.search(r"while running (\w+ node\. Name:'.{0,100}?')", str(error))
        at = "" if node is None else f" in {node[1]}"
        return ResourceError(
            f"{what}: no memory left{at}; use smaller inputs or batches, or allow more with --max-memory"
        )
    return InputError(f"{what}: {message(error)}")


def message(error: BaseException) -> str:
    """What a runtime says, on one line, without its codes and source positions."""
    text = said(error)
    text = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    head, _, rest = text.partition("Status Message: ")
    if rest and "/onnxruntime/" in rest:
        text = f"{head}Status Message: {rest.rpartition(') ')[2] or rest}"
    return clamped(text)
