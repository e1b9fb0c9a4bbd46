"""ONNX Runtime sessions: which provider, over which weights, with which tensors as outputs."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError, ResourceError, UsageError
from onnxmerge.memory import unless_limited
from onnxmerge.model.network import Weights, label
from onnxmerge.model.scratch import scratch_folder
from onnxmerge.model.widen import has_bfloat16, widen
from onnxmerge.text import clamped, said
from onnxmerge.types import Array

Provider = str | tuple[str, dict[str, str]]

CPU = "CPUExecutionProvider"
PROVIDERS: dict[str, Provider] = {
    "cpu": CPU,
    # TensorFloat-32 keeps 10 bits of the mantissa: every comparison to float32 tolerance would fail.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "tensorrt": ("TensorrtExecutionProvider", {}),
}
FATAL = 4
"""ORT's log severity at which it is silent: whatever it has to say arrives as an exception too."""

ort.set_default_logger_severity(FATAL)  # for what belongs to no session; it would go to the user's terminal

IN_MEMORY = 1 << 23
"""Weights of more bytes than this go to ORT through a temporary file, which it maps and needs no longer once the
session is open. A message that holds them all is slower and takes three times the memory. Handed over as arrays
(``add_external_initializers``, with or without ``add_initializer``) they are copied once more while the session opens:
on 113 MB of convolutions the process then peaks at 453 MB instead of 334, and at 678 instead of 446 if optimised."""

PATIENCE = 10.0
"""Seconds that one run of a model with loops may take, and so many more for each 100 MB of weights: what is small and
still does not come to an end is a Loop that has none."""

GROWTH, GROWTH_BY_WEIGHTS, GROWTH_BY_INPUTS = 10**9, 10, 1000
"""Bytes that one run of a model with loops may take unless ``memory_limit`` says, and so many more for each byte of
weights and of inputs: a state that doubles in every trip fills any memory long before ``PATIENCE`` is at its end."""

_LOOPS = frozenset({"Loop", "Scan"})
_NO_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad.alloc|out of memory|Available memory of \d+ is smaller")
_STOPPED = "terminate flag"

_with_loops: WeakKeyDictionary[ort.InferenceSession, int] = WeakKeyDictionary()
"""Sessions of models with loops, and the bytes of their weights."""


def providers(choice: str = "auto") -> list[Provider]:
    """The execution providers to hand to ONNX Runtime, in order of preference.

    ``auto`` takes CUDA where it really loads (the GPU wheel lists it on every machine) and the CPU elsewhere.

    Raises:
        UsageError: an unknown choice, or one that is not available here.

    """
    if choice == "cpu":
        return [CPU]
    if choice == "auto":
        return [PROVIDERS["cuda"], CPU] if _loads("cuda") else [CPU]
    if choice not in PROVIDERS:
        raise UsageError(f"--provider {choice}: unknown; choose auto, {', '.join(PROVIDERS)}")
    if not _loads(choice):
        raise UsageError(
            f"--provider {choice}: not available here (ONNX Runtime lists {', '.join(ort.get_available_providers())}, "
            "and it must load its libraries); install onnxruntime-gpu with CUDA, or use --provider cpu"
        )
    return [PROVIDERS[choice], *([PROVIDERS["cuda"]] if choice == "tensorrt" and _loads("cuda") else []), CPU]


@functools.cache
def _loads(choice: str) -> bool:
    """Whether a provider is there and a session on it comes up, found out on a model of one node."""
    provider = PROVIDERS[choice]
    name = provider if isinstance(provider, str) else provider[0]
    if name not in ort.get_available_providers():
        return False
    value = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [value], name="relu")
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 17}, name="probe")
    proto = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    try:
        if hasattr(ort, "preload_dlls"):  # finds the CUDA libraries that pip installed; it prints what it misses
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        session = ort.InferenceSession(proto, _options(optimise=False, spin=False), [provider, CPU], enable_fallback=0)
        return name in session.get_providers()
    except Exception:  # noqa: BLE001  (whatever a missing or broken library raises, the answer is no)
        return False


def _options(threads: int | None = None, *, optimise: bool, spin: bool, at_once: bool = False) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    # ORT plans which node may take over the buffer of which before by a search that is cubic in their number (6 s of 7
    # where a network has 4,300), and keeps for ever what it plans. Without, a buffer is freed behind its last reader:
    # transformers run in half the memory and in the same time.
    options.enable_mem_reuse = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    if at_once:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    model: ir.Model,
    *,
    weights: Mapping[str, Array] | None = None,
    outputs: Sequence[str] | None = None,
    provider: str = "cpu",
    optimise: bool = False,
    threads: int | None = None,
    alternating: bool = False,
    at_once: bool = False,
) -> ort.InferenceSession:
    """Open a session over a model, which is not changed.

    Args:
        model: The model, as ``read_network`` gives it.
        weights: Arrays that replace initializers of the main graph, by name; shape and dtype must be the same.
        outputs: Names of values of the main graph to have as outputs instead of the model's own.
        provider: One of auto, cpu, cuda, tensorrt.
        optimise: Whether ORT may fuse and fold (off: every node runs as it is written).
        threads: How many threads one operator may use; None leaves it to ORT.
        alternating: Whether other sessions run between its runs. The threads of an optimised session spin while they
            wait for the next one, which takes the cores from the others; then they sleep instead.
        at_once: Whether a node runs as soon as it can, that which comes first in the graph first. ORT's own order is
            from the outputs back: where these are measured of what is inside, all of that waits for the last of them.

    bfloat16 models run in float32 (see ``widen``): their inputs and outputs are float32 in the session.

    Raises:
        InputError: ORT does not accept the model (the message names the node), or a name, shape or dtype is wrong.
        UsageError: the provider is not available.

    """
    return open_sessions(
        model,
        [weights or {}],
        outputs=outputs,
        provider=provider,
        optimise=optimise,
        threads=threads,
        alternating=alternating,
        at_once=at_once,
    )[0]


def open_sessions(
    model: ir.Model,
    versions: Sequence[Mapping[str, Array]],
    *,
    outputs: Sequence[str] | None = None,
    provider: str = "cpu",
    optimise: bool = False,
    threads: int | None = None,
    alternating: bool = False,
    at_once: bool = False,
) -> list[ort.InferenceSession]:
    """Open a session over each version of a model, which is copied only once. See ``open_session``.

    ``versions`` are arrays that replace initializers, of the same names in each; at least one is given.
    """
    given = versions[0]
    # The lazy tensors of the copy ask for what is given when they are read, which is when the copy is handed over.
    ready = prepared(model, {name: lambda name=name: given[name] for name in given}, outputs)
    chosen = providers(provider)
    options = _options(threads, optimise=optimise, spin=optimise and not alternating, at_once=at_once)
    size = sum(tensor.nbytes for graph in ready.graphs() for tensor in _tensors(graph))
    loops = any(node.op_type in _LOOPS for node in ready.graph.all_nodes())
    sessions = []
    for given in versions:  # noqa: B007  (what the functions above read)
        session = _accepted(ready, size, options, chosen, label(model))
        if loops:
            _with_loops[session] = size
        sessions.append(session)
    return sessions


def _accepted(model: ir.Model, size: int, options: Any, chosen: list[Provider], where: str) -> ort.InferenceSession:
    """A session as ``_opened`` gives it; what is wrong is told as ``open_session`` says."""
    try:
        return _opened(model, size, options, chosen)
    except Exception as error:  # ORT's exceptions share no base of their own
        cause = own_cause(error)
        if isinstance(cause, InputError):
            raise cause from None
        if cause is not None:
            raise InputError(f"{where}: no room for a temporary copy of {size} bytes ({cause}); set TMPDIR") from error
        raise refusal(error, f"{where}: ONNX Runtime does not accept it") from error


def _opened(model: ir.Model, size: int, options: Any, chosen: list[Provider]) -> ort.InferenceSession:
    """A session over a model with ``size`` bytes of weights."""
    if size <= IN_MEMORY:
        return ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=chosen, enable_fallback=0
        )
    with scratch_folder(Path(tempfile.gettempdir()), "onnxmerge-") as folder:
        path = folder / "model.onnx"
        ir.save(model, path, external_data="model.data")
        return ort.InferenceSession(str(path), options, providers=chosen, enable_fallback=0)


def own_cause(error: BaseException) -> InputError | OSError | None:
    """What a lazy weight or the disk raised: onnx-ir wraps it in errors that print the whole graph."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError | OSError):
        cause = cause.__cause__
    return cause


def _tensors(graph: ir.Graph | ir.Function) -> list[ir.TensorProtocol]:
    if not isinstance(graph, ir.Graph):
        return []
    return [value.const_value for value in graph.initializers.values() if value.const_value is not None]


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


def run(session: ort.InferenceSession, feeds: Mapping[str, Array], *, where: str = "the model") -> dict[str, Array]:
    """Run a session once: outputs by name. ``where`` is what messages call the model.

    Raises:
        InputError: an input is missing, unknown, or of a shape or type that the model does not take, or a node fails.
        ResourceError: it takes more memory than it may, or a loop does not end.

    """
    names = [output.name for output in session.get_outputs()]
    given = checked_feeds(session, feeds, where)
    with running(session, where, given) as options:
        results = session.run(names, given, options)
    return dict(zip(names, results, strict=True))


@contextlib.contextmanager
def running(session: ort.InferenceSession, where: str, feeds: Mapping[str, Array]) -> Iterator[Any]:
    """Around a run, with the options for it: loops are bounded, and errors are told as `run` says."""
    options = ort.RunOptions()
    options.log_severity_level = FATAL
    try:
        with _bounded(session, options, feeds):
            yield options
    except Exception as error:  # ORT's exceptions share no base of their own
        if _STOPPED in str(error):
            raise ResourceError(
                f"{where}: a loop is still running after {_patience(session):.0f} seconds of one run; it may have no "
                "end, or the inputs are too large"
            ) from error
        raise refusal(error, f"{where}: does not run") from error


@contextlib.contextmanager
def _bounded(session: ort.InferenceSession, options: Any, feeds: Mapping[str, Array]) -> Iterator[None]:
    """Stop a model with loops where it takes too long, and let it have no more memory than its size may ask for."""
    weights = _with_loops.get(session)
    if weights is None:
        yield
        return
    inputs = sum(array.nbytes for array in feeds.values())
    watch = threading.Timer(_patience(session), setattr, (options, "terminate", True))
    watch.daemon = True
    with unless_limited(GROWTH + GROWTH_BY_WEIGHTS * weights + GROWTH_BY_INPUTS * inputs):
        watch.start()
        try:
            yield
        finally:
            watch.cancel()


def _patience(session: ort.InferenceSession) -> float:
    return PATIENCE * (1 + _with_loops.get(session, 0) / 1e8)


def refusal(error: BaseException, what: str) -> InputError:
    """What ONNX Runtime refused, as an error of ours: ``what``, and why."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        node = re.search(r"while running (\w+ node\. Name:'.{0,100}?')", str(error))
        at = "" if node is None else f" in {node[1]}"
        return ResourceError(
            f"{what}: no memory left{at}; use smaller inputs or batches, or allow more with --max-memory"
        )
    return InputError(f"{what}: {message(error)}")


def checked_feeds(session: ort.InferenceSession, feeds: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The feeds as the session takes them (bfloat16 in float32), all there and none too many."""
    wanted = {value.name: value.type for value in session.get_inputs()}
    for name in wanted:
        if name not in feeds:
            raise InputError(f"{where}: input {name!r} is missing; it takes {', '.join(map(repr, wanted))}")
    for name in feeds:
        if name not in wanted:
            raise InputError(f"{where}: has no input {name!r}; it takes {', '.join(map(repr, wanted))}")
    return {
        name: np.asarray(feeds[name], np.float32)
        if wanted[name] == "tensor(float)" and feeds[name].dtype.name == "bfloat16"
        else feeds[name]
        for name in wanted
    }


def message(error: BaseException) -> str:
    """ORT's message on one line, without its code and its source positions."""
    text = said(error)
    text = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    head, _, rest = text.partition("Status Message: ")
    if rest and "/onnxruntime/" in rest:
        text = f"{head}Status Message: {rest.rpartition(') ')[2] or rest}"
    return clamped(text)
