"""Read, trace, type and certify one topology, and say what came out."""

from __future__ import annotations

import multiprocessing
import re
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path

from onnxmerge.axes.infer import type_graph
from onnxmerge.errors import OnnxmergeError
from onnxmerge.model import Weights, read_network
from onnxmerge.model.hoist import trace_inside
from onnxmerge.units.layout import Block, Space, Typing
from onnxmerge.validation.certificate import certify
from onnxmerge.validation.coverage import coverage
from tests.zoo.topology import label, load_topology

INTERFACE = "the model's interface"
NODE_NAME = re.compile(r"^(\w+) '[^']*': ")
OUTER_NAME = re.compile(r"^(input|output|initializer|constant) '[^']*': ")
NUMBERS = re.compile(r"\d+(, \d+)*")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of docs/zoo.md. ``fixed`` counts weight elements that nothing free touches, by reason."""

    name: str
    nodes: int
    elements: int
    spaces: int = 0
    free: float = 0.0
    passed: bool = False
    error: float = 0.0
    compared: int = 0
    refusal: str | None = None
    seconds_trace: float = 0.0
    seconds_typing: float = 0.0
    seconds_certificate: float = 0.0
    fixed: Mapping[str, int] = field(default_factory=dict)


def measure(path: Path, *, seed: int = 0, samples: int = 2) -> Measurement:
    """Measure the topology at ``path``. A refusal in words is a result; any other exception is a bug and is raised."""
    network = read_network(load_topology(path, seed))
    nodes = sum(1 for _ in network.graph)
    weights = network.weights
    elements = sum(prod(weights.tensor(name).shape.numpy()) for name in weights if _floating(weights, name))
    name = label(path)
    clock = time.perf_counter
    started = clock()
    try:
        traced = trace_inside(network)
        after_trace = clock()
        typing = type_graph(traced.network, traced, (weights,))
        after_typing = clock()
        certificate = certify(typing, traced, samples=samples)
    except OnnxmergeError as error:
        return Measurement(name, nodes, elements, refusal=str(error))
    return Measurement(
        name=name,
        nodes=nodes,
        elements=elements,
        spaces=sum(space.free and space.size > 1 for space in typing.spaces.values()),
        free=coverage(weights, typing).free_elements,
        passed=certificate.passed,
        error=certificate.max_relative_error,
        compared=certificate.values_compared,
        refusal=certificate.failure,
        seconds_trace=after_trace - started,
        seconds_typing=after_typing - after_trace,
        seconds_certificate=clock() - after_typing,
        fixed=dict(fixed_elements(weights, typing)),
    )


def measure_within(path: Path, seconds: float) -> Measurement:
    """``measure`` in a process of its own that is ended after a time: a crash or a hang is a refusal in words."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(path, sender))
    process.start()
    sender.close()  # so that a process that dies ends the wait
    found: Measurement | None = None
    if receiver.poll(seconds):
        try:
            found = receiver.recv()
        except EOFError:
            found = None
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
    refusal = f"CRASH: no result within {seconds} s, or killed (exit code {process.exitcode})"
    return found or Measurement(label(path), 0, 0, refusal=refusal)


def _send(path: Path, sender: Connection) -> None:
    try:
        sender.send(measure(path))
    except Exception as error:  # noqa: BLE001  (a crash is the finding)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        refusal = f"CRASH: {type(error).__name__}: {str(error)[:200]} at {where}"
        sender.send(Measurement(label(path), 0, 0, refusal=refusal))


def fixed_elements(weights: Weights, typing: Typing) -> Counter[str]:
    """Weight elements that lie in no block with a free space, by the reason that says most."""
    counts: Counter[str] = Counter()
    for name in weights:
        if name in typing.statistics or not _floating(weights, name):
            continue
        layout = typing.initializers.get(name)
        if layout is None:
            counts["no layout"] += prod(weights.tensor(name).shape.numpy())
            continue
        for block in layout.blocks:
            if not any(typing.spaces[space].free and typing.spaces[space].size > 1 for space in block.spaces):
                counts[_reason(block, typing.spaces)] += prod(axis.positions.size for axis in block.axes)
    return counts


def _reason(block: Block, spaces: Mapping[str, Space]) -> str:
    """The reason of the block's longest axis that is not merely part of the interface; node names left out."""
    found = sorted(
        ((space.fixed, space.size) for name in block.spaces if (space := spaces[name]).fixed), key=lambda pair: -pair[1]
    )
    reasons = [reason for reason, _ in found if INTERFACE not in reason] or [reason for reason, _ in found]
    if not reasons:
        return "scalars"
    short = OUTER_NAME.sub("", NODE_NAME.sub(r"\1: ", reasons[0]))
    return NUMBERS.sub("…", short)


def _floating(weights: Weights, name: str) -> bool:
    return bool(weights.tensor(name).dtype.is_floating_point())
