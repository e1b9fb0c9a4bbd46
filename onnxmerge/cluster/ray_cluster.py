"""``--cluster``: independent pieces of work as tasks of a Ray cluster; the only module that knows Ray.

What all pieces share is put into Ray's object store once, from where every node has it, and every worker process opens
it once. Then items go to the workers and results come back in their order, a few items for each worker at a time, so
that neither the data nor the results are ever in memory as a whole. A piece whose worker is lost is done again by Ray.

What is sent is pickled, and so runs as code where it arrives: by this process for the workers and by them for this
process, never of an input file. Whoever reaches the ports of a Ray cluster can do the same, with or without this tool.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import pickle
import re
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.cluster.models import reduced
from onnxmerge.errors import InputError, OnnxmergeError, ResourceError, UsageError
from onnxmerge.executor import Executor, Item, Result, Work, cores, cores_of_process
from onnxmerge.model.scratch import scratch_folder
from onnxmerge.text import said

try:
    import ray
    from ray import cloudpickle
except ImportError:
    ray = cloudpickle = None

LOCAL = "local"
"""The address that stands for a cluster on this machine, which lasts as long as the command."""

AHEAD = 2
"""Items for each worker that are under way at once: while it does one, the next one is on its way to it."""

TRIES = 4
"""How often a piece of work is done whose worker was lost, before it counts as the piece that ends workers."""

PATIENCE = 10.0
"""Seconds in which a cluster must answer."""

_PLACE = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Ray's settings for a job: it reports to nobody, and leaves the devices of workers as they are."""

_AUTHENTICATION = "RAY_AUTH_MODE"
"""Unless this says otherwise, Ray sets it to "token" where it starts a cluster: who knows no token is not heard."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An object as bytes; its arrays are beside them, so that they are read where Ray has put them."""

    content: bytes
    buffers: tuple[NDArray[np.uint8], ...]

    @classmethod
    def of(cls, value: object) -> Packed:
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _pickler()(stream, protocol=5, buffer_callback=buffers.append).dump(value)
        return cls(stream.getvalue(), tuple(np.frombuffer(each.raw(), np.uint8) for each in buffers))

    def value(self) -> Any:
        """The object; its arrays cannot be written to."""
        return pickle.loads(self.content, buffers=[each.data.toreadonly() for each in self.buffers])  # noqa: S301 - made by a process of this job


@functools.cache
def _pickler() -> Any:
    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # Ray has no types
        """Knows networks beside functions."""

        def reducer_override(self, value: Any) -> Any:
            found = reduced(value)
            return super().reducer_override(value) if found is None else found

    return Pickler


@dataclass(frozen=True, slots=True, eq=False)
class RayCluster(Executor):
    """``workers`` processes of a cluster that this process is connected to; ``task`` is what they run."""

    workers: int
    threads: int
    task: Any

    def __reduce__(self) -> tuple[type[Executor], tuple[()]]:
        """What a worker gets of it: what it is given to do, it does itself."""
        return Executor, ()

    def map(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items. Raises what the work raises, or ResourceError where workers end."""
        following = iter(items)
        first = next(following, None)
        if first is None:
            return
        shared = ray.put(Packed.of(work))
        under_way: deque[Any] = deque()
        try:
            for item in itertools.chain([first], following):
                under_way.append(self.task.remote(shared, Packed.of(item), shared.hex(), self.threads))
                if len(under_way) >= AHEAD * self.workers:
                    yield _result(under_way.popleft())
            while under_way:
                yield _result(under_way.popleft())
        finally:
            for each in under_way:  # who asked wants no more results
                ray.cancel(each, force=False)


def _result(reference: Any) -> Any:
    """The result of a task, waited for."""
    try:
        found = ray.get(reference).value()
    except ray.exceptions.OutOfMemoryError as error:
        raise ResourceError(
            "a worker of the cluster ran out of memory; give each more cores (--worker-cpus), so that there are fewer "
            "of them, or use a smaller --batch-size"
        ) from error
    except (ray.exceptions.RayTaskError, ray.exceptions.RaySystemError) as error:
        raise InputError(f"a worker of the cluster failed: {said(error)[-300:]}") from error
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"workers of the cluster were lost {TRIES} times at the same piece of work ({type(error).__name__}); "
            "there may be too little memory: give each more cores (--worker-cpus), or leave --cluster out"
        ) from error
    value, failure = found
    if failure is not None:
        raise failure
    return value


_opened: dict[str, Callable[[Any], Any]] = {}
"""In a worker: the work that it has opened, by what Ray calls it; the last one only."""


def _do(work: Packed, item: Packed, name: str, threads: int) -> Packed:
    """In a worker: one piece of work: its result, or an error of ours."""
    cores.set(threads)
    try:
        if name not in _opened:
            _opened.clear()
            _opened[name] = work.value().open()
        return Packed.of((_opened[name](item.value()), None))
    except OnnxmergeError as error:
        return Packed.of((None, error))


@contextmanager
def ray_cluster(
    address: str, *, cpus: int, gpu: bool, environment: Callable[[], Mapping[str, Any]]
) -> Iterator[RayCluster]:
    """Connect to a cluster, or start one on this machine (``local``), for as long as the block runs.

    Args:
        address: "local", "auto" (the cluster that this machine belongs to) or HOST:PORT of its head.
        cpus: Processor cores of each worker.
        gpu: Whether each worker needs a GPU.
        environment: Gives the ``versions`` of all that computes; what it gives on each node must be the same.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        InputError: no cluster answers, it has no room for a worker, or its nodes have other versions.

    """
    if ray is None:
        raise UsageError('--cluster needs Ray, which is not installed: pip install "onnxmerge[ray]"')
    _require_reachable(address)
    with _connected(address, cpus):
        every = [node for node in ray.nodes() if node["Alive"]]
        workers = sum(_room(node["Resources"], cpus, gpu=gpu) for node in every)
        if not workers:
            needs = f"{cpus} {'core' if cpus == 1 else 'cores'}{' and a GPU' if gpu else ''}"
            raise InputError(f"--cluster {address}: no node has {needs} for a worker; give fewer (--worker-cpus)")
        if address != LOCAL:
            _require_alike([node["NodeID"] for node in every], environment)
        task = ray.remote(_do).options(
            num_cpus=cpus, num_gpus=1 if gpu else 0, max_retries=TRIES - 1, scheduling_strategy="SPREAD"
        )
        yield RayCluster(workers, cpus, task)


def _require_reachable(address: str) -> None:
    """Raise UsageError for what is no address, InputError where nobody listens there."""
    if address in (LOCAL, "auto"):
        return
    place = _PLACE.fullmatch(address)
    if place is None:
        raise UsageError(f"--cluster {address[:80]!r}: expected local, auto, or HOST:PORT of a Ray cluster's head")
    try:
        socket.create_connection((place[1].strip("[]"), int(place[2])), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--cluster {address}: nobody answers there ({error}); is the cluster running?") from error


@contextmanager
def _connected(address: str, cpus: int) -> Iterator[None]:
    """Be connected to a cluster; one that was started for this ends with the block, and leaves no file."""
    if ray.is_initialized():
        raise UsageError("--cluster: this process is connected to a Ray cluster already; disconnect (ray.shutdown())")
    how: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "CRITICAL"}
    with ExitStack() as stack:
        stack.enter_context(_settings())
        how["address"] = address
        if address == LOCAL:
            folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()), "onnxmerge-"))
            how |= {"num_cpus": max(cpus, cores_of_process()), "_node_ip_address": "127.0.0.1"}
            how["_temp_dir"] = str(folder)
        stack.callback(_disconnect)
        try:
            with _own_handlers(), _silent():
                ray.init(**how)
        except SystemExit:  # it is what Ray's handler of a signal raises: ours is to say it
            signal.raise_signal(signal.SIGTERM)
            raise
        except Exception as error:  # Ray raises errors of many kinds
            what = "cannot be started" if address == LOCAL else "cannot be reached from this machine"
            hint = "" if address == LOCAL else "; one that wants a token needs RAY_AUTH_MODE=token"
            raise InputError(f"--cluster {address}: a Ray cluster {what}: {said(error)[:300]}{hint}") from error
        yield


def _disconnect() -> None:
    with _own_handlers():
        ray.shutdown()


@contextmanager
def _settings() -> Iterator[None]:
    """Settings in the environment, which Ray hands on to what it starts; behind the block all is as it was."""
    before = {name: os.environ.get(name) for name in (*_SETTINGS, _AUTHENTICATION)}
    os.environ.update(_SETTINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent() -> Iterator[None]:
    """Keep from standard error what Ray's libraries write there while they try to connect; what they raise says it."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Leave to the signals the handlers that they have: Ray sets its own, which would end the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _room(resources: Mapping[str, float], cpus: int, *, gpu: bool) -> int:
    """How many workers a node has room for."""
    most = int(resources.get("CPU", 0) // cpus)
    return min(most, int(resources.get("GPU", 0))) if gpu else most


def _require_alike(nodes: Iterable[str], environment: Callable[[], Mapping[str, Any]]) -> None:
    """Raise InputError where a node computes with other versions than this process: results would be others."""
    own = environment()["versions"]
    ask = ray.remote(_asked)
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = {
        node: ask.options(num_cpus=0, scheduling_strategy=place(node, soft=False)).remote(Packed.of(environment))
        for node in nodes
    }
    for node, reference in asked.items():
        try:
            found = ray.get(reference, timeout=60)
        except ray.exceptions.RayError as error:
            raise InputError(
                f"node {node[:12]} of the cluster cannot run onnxmerge ({type(error).__name__}: {said(error)[-200:]}); "
                "install the same onnxmerge there"
            ) from error
        wrong = sorted(name for name in {*own, *found} if own.get(name) != found.get(name))
        if wrong:
            raise InputError(
                f"node {node[:12]} of the cluster has other versions of {', '.join(wrong)} than this machine; "
                "install the same there, for numbers would differ in their last digits"
            )


def _asked(environment: Packed) -> Mapping[str, Any]:
    """In a worker: the versions of what it computes with."""
    found: Mapping[str, Any] = environment.value()()["versions"]
    return found
