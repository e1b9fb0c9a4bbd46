"""A network that is open: its weights and outputs chosen, on a provider, with what is wrong as one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.network import Weights, label
from onnxmerge.model.runtime import Running, SessionOptions, Value, translated
from onnxmerge.model.runtimes import PROVIDERS, available
from onnxmerge.model.widen import has_bfloat16, widen
from onnxmerge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """An open network, by the names of its inputs and outputs; ``where`` is what messages call it.

    Its runs raise InputError where an input is missing, unknown, or of a shape or type that it does not take, or a node
    fails; ResourceError where it takes more memory than it may, or a loop does not end.
    """

    where: str
    inputs: Mapping[str, ir.DataType | None]
    outputs: tuple[str, ...]
    running: Running

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs as arrays; bfloat16 in float32."""
        given = fitting(self.inputs, feeds, self.where)
        with translated(f"{self.where}: does not run"):
            return dict(zip(self.outputs, self.running.run(self.outputs, given), strict=True))

    def values(self, feeds: Mapping[str, Value], names: Sequence[str] | None = None) -> dict[str, Value]:
        """The outputs, or some of them, left where the runtime has them."""
        given, wanted = fitting(self.inputs, feeds, self.where), self.outputs if names is None else names
        with translated(f"{self.where}: does not run"):
            return dict(zip(wanted, self.running.values(wanted, given), strict=True))


def open_session(
    model: ir.Model,
    *,
    weights: Mapping[str, Array] | None = None,
    outputs: Sequence[str] | None = None,
    provider: str = "cpu",
    fed: Iterable[str] = (),
    optimise: bool = False,
    alternating: bool = False,
    at_once: bool = False,
    looked_into: bool = False,
) -> Session:
    """Open a model, which is not changed.

    Args:
        model: The model, as ``read_network`` gives it.
        weights: Arrays that replace initializers of the main graph, by name; shape and dtype must be the same.
        outputs: Names of values of the main graph to have as outputs instead of the model's own.
        provider: One of `CHOICES`.
        fed: Initializers of the main graph that become inputs.
        optimise: As `SessionOptions` has it, like those that follow.
        alternating: Whether other networks run between its runs.
        at_once: Whether nodes run in the order of the graph.
        looked_into: Whether most of what is inside is read whole.

    bfloat16 models run in float32 (see ``widen``): their inputs and outputs are float32 in the session.

    Raises:
        InputError: the model is not accepted (the message names the node), or a name, shape or dtype is wrong.
        UsageError: the provider is not available.

    """
    ready, chosen, where = prepared(model, weights or {}, outputs), available(provider), label(model)
    for name in fed:
        value = ready.graph.initializers.pop(name, None)  # None where no output needs it
        if value is not None and value.const_value is not None:
            tensor, value.const_value = value.const_value, None
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            ready.graph.inputs.append(value)
    runtime = PROVIDERS[chosen]
    with translated(f"{where}: {runtime.summary} does not accept it"):
        try:
            asked = SessionOptions(optimise, alternating, at_once, frozenset(fed), looked_into)
            running = runtime.open(ready, chosen, asked)
        except Exception as error:
            cause = own_cause(error)
            if isinstance(cause, OSError):
                size = sum(value.const_value.nbytes for value in ready.graph.initializers.values() if value.const_value)
                raise InputError(
                    f"{where}: no room for a temporary copy of {size} bytes ({cause}); set TMPDIR"
                ) from error
            raise error if cause is None else cause from None
    return Session(where, inputs_of(ready), tuple(str(value.name) for value in ready.graph.outputs), running)


def inputs_of(model: ir.Model) -> dict[str, ir.DataType | None]:
    """The types of a model's inputs by name."""
    return {str(value.name): value.dtype for value in model.graph.inputs}


def fitting(inputs: Mapping[str, ir.DataType | None], feeds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The feeds as a network takes them (bfloat16 in float32). Raises InputError unless they are all its inputs."""
    for name in inputs:
        if name not in feeds:
            raise InputError(f"{where}: input {name!r} is missing; it takes {', '.join(map(repr, inputs))}")
    for name in feeds:
        if name not in inputs:
            raise InputError(f"{where}: has no input {name!r}; it takes {', '.join(map(repr, inputs))}")
    return {name: wide(feeds[name]) if dtype == ir.DataType.FLOAT else feeds[name] for name, dtype in inputs.items()}


def wide(value: Any) -> Any:
    """A value in float32 where it is bfloat16."""
    return (
        np.asarray(value, np.float32) if getattr(getattr(value, "dtype", None), "name", None) == "bfloat16" else value
    )


def own_cause(error: BaseException) -> InputError | OSError | None:
    """What a lazy weight or the disk raised: onnx-ir wraps it in errors that print the whole graph."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError | OSError):
        cause = cause.__cause__
    return cause


def prepared(model: ir.Model, weights: Mapping[str, Any], outputs: Sequence[str] | None) -> ir.Model:
    """A copy of the model with other weights and outputs; no array is read before it is serialised.

    ``weights`` are arrays, or functions that give them.
    """
    copy = model.clone()
    # Before IR version 4 every initializer had to be a graph input too, which reading undoes.
    copy.ir_version = max(copy.ir_version, 4)
    graph = copy.graph
    for name in weights:
        if name not in graph.initializers:
            raise InputError(f"{label(model)}: has no initializer {name!r} to replace")
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            value.const_value = lazy(value.const_value, name, weights if name in weights else None, label(model))
    if outputs is not None:
        _replace_outputs(copy, outputs, label(model))
    if has_bfloat16(copy):
        widen(copy)
    return copy


def lazy(tensor: ir.TensorProtocol, name: str, weights: Mapping[str, Any] | None, where: str) -> ir.TensorProtocol:
    """A tensor that is read when it is serialised, from ``weights`` if given (an array or a function giving one).

    Strings stay as they are: they are equal in all networks that pair up.

    Raises (when it is read): InputError where shape or dtype is not that of ``tensor``.
    """
    if tensor.dtype == ir.DataType.STRING:
        return tensor
    if weights is None:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        weights = Weights({name: tensor})

    def read() -> ir.TensorProtocol:
        found = weights[name]
        array = np.asarray(found() if callable(found) else found)
        dtype = tensor.dtype.numpy()
        if array.shape != tuple(tensor.shape.numpy()) or array.dtype != dtype:
            raise InputError(
                f"{where}: initializer {name!r} is {dtype}{list(tensor.shape.numpy())}, "
                f"but {array.dtype}{list(array.shape)} was given for it"
            )
        # A new object each time: the name of the one given is not ours to change.
        return ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=tensor.dtype, name=name)

    return ir.LazyTensor(read, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=name)


def _replace_outputs(model: ir.Model, names: Sequence[str], where: str) -> None:
    graph = model.graph
    known = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    known |= {value.name: value for node in graph for value in node.outputs if value.name}
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{where}: has no tensor {missing[0]!r} to give as output")
    graph.outputs.clear()
    graph.outputs.extend(known[name] for name in dict.fromkeys(names))
    passes.RemoveUnusedNodesPass()(model)
