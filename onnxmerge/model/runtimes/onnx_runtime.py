"""ONNX Runtime: its sessions and providers, what bounds a run, and what it says of files and operators."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state

from onnxmerge.errors import InputError, ResourceError
from onnxmerge.executor import cores, cores_of_process
from onnxmerge.memory import unless_limited
from onnxmerge.model.network import label
from onnxmerge.model.runtime import Runtime, SessionOptions, Value, message, refusal
from onnxmerge.model.scratch import scratch_folder

CPU = "CPUExecutionProvider"
NAMES = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
ON_GPU = frozenset({"cuda", "tensorrt"})
OPTIONS = {"cuda": {"use_tf32": "0"}}
"""TensorFloat-32 keeps 10 bits of the mantissa: every comparison to float32 tolerance would fail."""

VERSION: str = ort.__version__

FATAL = 4
"""The log severity at which it is silent: whatever it has to say arrives as an exception too."""

ort.set_default_logger_severity(FATAL)  # for what belongs to no session; it would go to the user's terminal

TWICE = 1 << 26
"""Weights of more bytes than this are not to stand twice in a session whose inside is read."""

IN_MEMORY = 1 << 23
"""Weights of more bytes than this are handed over in a temporary file, which is mapped and needed no longer once the
session is open. A message that holds them all is slower and takes three times the memory. Handed over as arrays
(``add_external_initializers``, with or without ``add_initializer``) they are copied once more while the session opens:
on 113 MB of convolutions the process then peaks at 453 MB instead of 334, and at 678 instead of 446 if optimised.

Products read weights where they are mapped: packed for faster products, they would all be copied into memory of the
process (ViT-B/16: 340 MB), which takes longer to open and makes a run of 8 images some percent faster."""

PATIENCE = 10.0
"""Seconds that one run of a model with loops may take, and so many more for each 100 MB of weights: what is small and
still does not come to an end is a Loop that has none."""

GROWTH, GROWTH_BY_WEIGHTS, GROWTH_BY_INPUTS = 10**9, 10, 1000
"""Bytes that one run of a model with loops may take unless ``memory_limit`` says, and so many more for each byte of
weights and of inputs: a state that doubles in every trip fills any memory long before ``PATIENCE`` is at its end."""

_UNPACKED = ("session.disable_prepacking", "1")

_LOOPS = frozenset({"Loop", "Scan"})
_STOPPED = "terminate flag"

_TYPES = {f"tensor({dtype.name.lower()})": dtype.numpy() for dtype in ir.DataType if dtype != ir.DataType.UNDEFINED}
"""Its names of the types of tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A value of its own, on the device that it is on."""

    own: ort.OrtValue

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return _TYPES.get(self.own.data_type()) if self.own.has_value() else None  # an empty optional kills it

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.own.shape())

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001
        """A copy: it may be a view of an input, which lives no longer than this."""
        return np.array(self.own.numpy(), dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """An open network of ``size`` bytes of weights; ``bounded`` where it has loops."""

    own: ort.InferenceSession
    where: str
    size: int
    weights: frozenset[str]
    bounded: bool

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Sequence[Any]:
        with self._bounds(feeds) as options:
            found: list[Any] = self.own.run(names, feeds, options)
            return found

    def values(self, names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:
        given = {name: _ort_value(value) for name, value in feeds.items()}
        with self._bounds(feeds) as options:
            return [_Held(value) for value in self.own.run_with_ort_values(names, given, options)]

    @contextlib.contextmanager
    def _bounds(self, feeds: Mapping[str, Value]) -> Iterator[Any]:
        """The options of a run, which is stopped where loops take too long or more memory than sizes may ask for."""
        options = ort.RunOptions()
        options.log_severity_level = FATAL
        if not self.bounded:
            yield options
            return
        inputs = sum(_nbytes(value) for name, value in feeds.items() if name not in self.weights)
        patience = PATIENCE * (1 + self.size / 1e8)
        watch = threading.Timer(patience, setattr, (options, "terminate", True))
        watch.daemon = True
        with unless_limited(GROWTH + GROWTH_BY_WEIGHTS * self.size + GROWTH_BY_INPUTS * inputs):
            watch.start()
            try:
                yield options
            except Exception as error:
                if _STOPPED not in str(error):
                    raise
                raise ResourceError(
                    f"{self.where}: a loop is still running after {patience:.0f} seconds of one run; it may have no "
                    "end, or the inputs are too large"
                ) from error
            finally:
                watch.cancel()


def _open(model: ir.Model, provider: str, asked: SessionOptions) -> _Session:
    """A session over a model whose weights are read now."""
    sizes = [
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    options = _options(asked, sum(sizes))
    if sum(sizes) > IN_MEMORY:
        options.add_session_config_entry(*_UNPACKED)
    session = _opened(model, sum(sizes), options, _providers(provider))
    fed = sum(_declared(value) for value in model.graph.inputs if value.name in asked.weights)
    loops = any(node.op_type in _LOOPS for node in model.graph.all_nodes())
    return _Session(session, label(model), sum(sizes) + fed, asked.weights, loops)


def _opened(model: ir.Model, size: int, options: Any, providers: list[Any]) -> ort.InferenceSession:
    if size <= IN_MEMORY:
        return ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=providers, enable_fallback=0
        )
    with scratch_folder(Path(tempfile.gettempdir()), "onnxmerge-") as folder:
        path = folder / "model.onnx"
        ir.save(model, path, external_data="model.data")
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _options(asked: SessionOptions, size: int = 0) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = _threads()
    # It plans which node may take over whose buffer by a search that takes most of the time to open
    # networks of thousands of nodes, and keeps what it plans. Without, a buffer is freed behind its last reader.
    # enable_mem_pattern allocates, from the second run on, one more block as large as all that a run takes. The numbers
    # come from tools/buffer_planning.py.
    options.enable_mem_reuse = options.enable_mem_pattern = False
    level = ort.GraphOptimizationLevel
    # The last level has convolutions take blocks of channels: faster, but weights stand twice, and so does what is
    # looked into.
    plain = asked.looked_into and size > TWICE
    fused = level.ORT_ENABLE_EXTENDED if plain else level.ORT_ENABLE_ALL
    options.graph_optimization_level = fused if asked.optimise else level.ORT_DISABLE_ALL
    if asked.at_once:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if asked.weights:  # it is kept for long: what a run took is given back behind it
        options.enable_cpu_mem_arena = False
    if not asked.optimise or asked.alternating:  # threads would spin while they wait for the next operator
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _threads() -> int:
    """How many a session has; 0: one for each core of the machine.

    It does not ask which of them the process may use. Threads that share a core wait busily while the other works: two
    on one take twice the time of one.
    """
    allowed = cores_of_process()
    return cores.get() or (allowed if allowed < (os.cpu_count() or 0) else 0)


def _providers(provider: str) -> list[Any]:
    """The execution providers in order of preference."""
    wanted = dict.fromkeys((provider, "cuda" if provider == "tensorrt" and _loads("cuda") else provider, "cpu"))
    return [(NAMES[each], OPTIONS[each]) if each in OPTIONS else NAMES[each] for each in wanted]


def _missing(provider: str) -> str | None:
    if provider == "cpu" or _loads(provider):
        return None
    return (
        f"ONNX Runtime lists {', '.join(ort.get_available_providers())}, and it must load its libraries: "
        "install onnxruntime-gpu with CUDA"
    )


@functools.cache
def _loads(provider: str) -> bool:
    """Whether a provider is there and a session on it comes up, found out on a model of one node.

    The GPU wheel lists its providers on every machine.
    """
    if NAMES[provider] not in ort.get_available_providers():
        return False
    value = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [value], name="relu")
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 17}, name="probe")
    places = [(NAMES[provider], OPTIONS.get(provider, {})), CPU]
    try:
        if hasattr(ort, "preload_dlls"):  # finds the CUDA libraries that pip installed; it prints what it misses
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        session = _opened(ir.Model(graph, ir_version=8), 0, _options(SessionOptions()), places)
        return NAMES[provider] in session.get_providers()
    except Exception:  # noqa: BLE001  (whatever a missing or broken library raises, the answer is no)
        return False


def refuses(file: str | bytes, what: str) -> str | None:
    """What it says against a file (its path, or all of it), opened just as it is; None where it opens it.

    Raises ResourceError, which begins with ``what``, where that takes more memory than it may: the file may be right.
    """
    options = _options(SessionOptions())
    options.add_session_config_entry(*_UNPACKED)  # it is opened, not run
    try:
        ort.InferenceSession(file, options, providers=[CPU], enable_fallback=0)
    except Exception as error:  # its exceptions share no base of their own
        found = refusal(error, what)
        if isinstance(found, ResourceError):
            raise found from error
        return message(error)
    return None


def own_operators() -> frozenset[tuple[str, str]]:
    """Domain and name of every operator that it lists."""
    listed = getattr(onnxruntime_pybind11_state, "get_all_operator_schema", None)
    return frozenset((schema.domain, schema.name) for schema in (() if listed is None else listed()))


def _ort_value(value: Value) -> ort.OrtValue:
    if isinstance(value, _Held):
        return value.own
    array = np.asarray(value)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))


def _nbytes(value: Value) -> int:
    return int(np.prod(value.shape)) * (0 if value.dtype is None else value.dtype.itemsize)


def _declared(value: ir.Value) -> int:
    """Bytes of an input of a declared size."""
    return 0 if value.shape is None or value.dtype is None else int(np.prod(value.shape.numpy()) * value.dtype.itemsize)


METHOD = Runtime(
    name="onnxruntime",
    summary="ONNX Runtime",
    source="github.com/microsoft/onnxruntime",
    providers=NAMES,
    open=_open,
    missing=_missing,
    rank=0,
)


def read_adapter(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of an ``.onnx_adapter`` file, by name. Raises InputError where it cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}; expected an adapter")
    try:
        found = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:  # ONNX Runtime raises whatever its flatbuffers do
        raise InputError(f"{path}: is not an ONNX Runtime adapter ({message(error)})") from error
    arrays = {}
    for name, value in sorted(found.items()):
        try:
            arrays[str(name)] = np.array(value.numpy())
        except Exception as error:  # numpy has no such type
            kind = value.data_type()
            raise InputError(f"{path}: tensor {str(name)!r} is of type {kind}, which cannot be read here") from error
    return arrays
