#!/usr/bin/env python3
"""How much faster workers of a cluster calibrate, measured on this machine, and what that predicts for more of them.

    PYTHONPATH=. python tools/scaling.py A.onnx B.onnx --calib DATA [--samples N] [--workers 1,2] [--network 10]
        [--repeats 3] [--page docs/scaling.md]

Statistics of the pair are measured once in this process on one core, to see what a shard takes and how many bytes go
where, then on local clusters of so many workers with a core each (Ray is needed, and a machine that does nothing else);
the best of --repeats counts, without the start of the cluster. All must give the same bytes. The prediction is for a
network of so many gigabits a second. --page writes both tables between the marks of that page.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.statistics import GramRequest, Statistics
from onnxmerge.calibration.sources import OpenedSource, open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.cluster.ray_cluster import LOCAL, Packed, ray_cluster
from onnxmerge.executor import Executor, Item, Result, Work, cores
from onnxmerge.pipeline.prepare import Prepared, load, type_models
from onnxmerge.pipeline.store import environment

BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"
MANY = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Costs:
    """Of one calibration: seconds to open the work and for a shard, here and there, and bytes that are sent."""

    shards: int
    opening: float
    shard: float
    driver: float
    shared_bytes: float
    item_bytes: float
    result_bytes: float

    def seconds(self, workers: int, network: float) -> float:
        """What so many workers should take, with ``network`` bytes a second to and from the driver.

        Rounds of shards, or the driver where it is slower: it sends each shard's data and adds up what comes back.
        """
        per_shard = self.driver + (self.item_bytes + self.result_bytes) / network
        rounds = -(-self.shards // workers)
        return self.opening + max(rounds * self.shard, self.shard + self.shards * per_shard)

    def most(self, network: float) -> float:
        """The number of workers from which on the driver is what all wait for."""
        return self.shard / (self.driver + (self.item_bytes + self.result_bytes) / network)


class Timed(Executor):
    """Does the work here, and notes what it costs."""

    def map(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        self.shared, self.times, self.driver = size(Packed.of(work)), list[float](), list[float]()
        self.item_sizes, self.result_sizes = list[int](), list[int]()
        started = time.perf_counter()
        run = work.open()
        self.opening = time.perf_counter() - started
        for item in items:
            started = time.perf_counter()
            given = Packed.of(item)
            sending = time.perf_counter() - started
            started = time.perf_counter()
            found = Packed.of(run(item))
            self.times.append(time.perf_counter() - started)
            started = time.perf_counter()
            yield found.value()  # what is done until the next is asked for is adding it up
            self.driver.append(sending + time.perf_counter() - started)
            self.item_sizes.append(size(given))
            self.result_sizes.append(size(found))

    def costs(self) -> Costs:
        def mean(values: list[Any]) -> float:
            return float(sum(values)) / len(values)

        return Costs(
            len(self.times),
            self.opening,
            mean(self.times),
            mean(self.driver),
            self.shared,
            mean(self.item_sizes),
            mean(self.result_sizes),
        )


def size(packed: Packed) -> int:
    """Bytes of what is sent."""
    return len(packed.content) + sum(each.nbytes for each in packed.buffers)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--network", type=float, default=10.0, help="gigabits a second")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    models = load(arguments.models)
    source = open_source(arguments.calib, input_specs(models.template.model), samples=arguments.samples)
    prepared = type_models(models, {name: array[:2] for name, array in next(iter(source)).items()}, None)
    timed = Timed()
    cores.set(1)
    aim = digest(measured(prepared, source, timed))
    costs, network = timed.costs(), arguments.network * 1e9 / 8
    told = (
        f"{arguments.models[0].parent.name or arguments.models[0].name}, {sum(source.sizes):,} samples in "
        f"{costs.shards} shards. A shard takes {costs.shard:.2f} s on one core and {costs.driver * 1000:.1f} ms where "
        f"the command runs; {costs.item_bytes / 1e6:.2f} MB of data go to a worker and {costs.result_bytes / 1e6:.2f} "
        f"MB of statistics come back. Each node gets {costs.shared_bytes / 1e6:.1f} MB once: graph and weights."
    )
    lines = [
        told,
        "",
        "| workers | measured, s | predicted, s | speed-up |",
        "|---|---|---|---|",
    ]
    asked = [int(word) for word in arguments.workers.split(",")]
    own = {workers: best(prepared, source, workers, arguments.repeats, aim) for workers in asked}
    first = min(own)
    for workers in sorted({*own, *MANY}):
        known, predicted = own.get(workers), costs.seconds(workers, network)
        faster = (own[first] if known else costs.seconds(first, network)) / (known or predicted)
        seconds = "" if known is None else f"{known:.1f}"
        lines.append(f"| {workers} | {seconds} | {predicted:.1f} | {faster:.1f}{'' if known else ' (predicted)'} |")
    lines += ["", f"Beyond {min(costs.most(network), costs.shards):.0f} workers it stops to pay."]
    print("\n".join(lines))
    if arguments.page is not None:
        before, rest = arguments.page.read_text(encoding="utf-8").split(BEGIN)
        text = f"{before}{BEGIN}" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}"
        arguments.page.write_text(text, encoding="utf-8")


def measured(prepared: Prepared, source: OpenedSource, executor: Executor) -> Statistics:
    """What a method that compares activations wants to know of the pair."""
    requests = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()]
    models = prepared.models
    return measure_statistics(
        models.template, models.weights, prepared.typing, requests, source, traced=2, executor=executor
    )


def best(prepared: Prepared, source: OpenedSource, workers: int, repeats: int, aim: str) -> float:
    """The seconds that so many workers take, at best."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < workers:
        raise SystemExit(f"there are {len(allowed)} cores, too few for {workers} workers")
    os.sched_setaffinity(0, allowed[:workers])  # a local cluster has a worker for each core
    try:
        with ray_cluster(LOCAL, cpus=1, gpu=False, environment=environment) as cluster:
            found = []
            for _ in range(repeats):
                started = time.perf_counter()
                statistics = measured(prepared, source, cluster)
                found.append(time.perf_counter() - started)
                if digest(statistics) != aim:
                    raise SystemExit(f"{workers} workers give other bytes than this process")
    finally:
        os.sched_setaffinity(0, allowed)
    return min(found)


def digest(statistics: Statistics) -> str:
    """SHA-256 of all sums."""
    sha256 = hashlib.sha256()
    for name, gram in sorted(statistics.gram.items()):
        sha256.update(name.encode())
        for array in (gram.sums, gram.squares, *gram.cross.values()):
            sha256.update(array.tobytes())
    return sha256.hexdigest()


if __name__ == "__main__":
    main()
