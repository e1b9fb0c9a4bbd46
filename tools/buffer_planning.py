#!/usr/bin/env python3
"""What ONNX Runtime's plans of memory cost: opening a model, running it, and memory, with and without each.

    PYTHONPATH=. python tools/buffer_planning.py MODEL.onnx|TOPOLOGY [--batch 250] [--copies 1]

It plans which node takes over whose buffer as it opens a network (reuse), and as it runs it notes what a run took and
takes that in one block for the next (pattern). A topology is one of tests/zoo, such as transformers/jamba.torchscript.
Each way is measured in a process of its own, with one thread: seconds of processor time to open a session and for the
best of three runs on random data (inputs must be floats), and anonymous memory beyond that of the open session at the
peak. With --copies the network stands in the graph so many times beside itself, which is a graph of so many times the
nodes; it is opened only, as with --batch 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnxruntime as ort

from tests.zoo.topology import FOLDER, SUFFIX, load_topology


def main() -> None:
    """Measure each way, and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--copies", type=int, default=1)
    arguments = parser.parse_args()
    path = Path(arguments.model)
    model = onnx.load(path) if path.suffix == ".onnx" else load_topology(FOLDER / f"{arguments.model}{SUFFIX}")
    whole = onnx.compose.add_prefix(model, "0/")
    for number in range(1, arguments.copies):
        whole = onnx.compose.merge_models(whole, onnx.compose.add_prefix(model, f"{number}/"), io_map=[])
    print(f"{len(whole.graph.node)} nodes")
    content, batch = whole.SerializeToString(), arguments.batch if arguments.copies == 1 else 0
    for plans in ((True, True), (False, True), (False, False)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (content, batch, *plans)))


def measure(content: bytes, batch: int, reuse: bool, pattern: bool) -> str:  # noqa: FBT001
    """Open a model, and run it on ``batch`` samples if there are any."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_reuse, options.enable_mem_pattern, options.intra_op_num_threads = reuse, pattern, 1
    started = time.process_time()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    told = f"reuse {'on' if reuse else 'off'}, pattern {'on' if pattern else 'off'}: "
    told += f"open {time.process_time() - started:.2f} s"
    if not batch:
        return told
    rng = np.random.default_rng(0)
    feed = {
        each.name: rng.normal(size=[size if isinstance(size, int) else batch for size in each.shape]).astype(np.float32)
        for each in session.get_inputs()
    }
    before, peak, done, seconds = anonymous(), [0], threading.Event(), list[float]()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        started = time.process_time()
        session.run(None, feed)
        seconds.append(time.process_time() - started)
    done.set()
    watcher.join()
    return f"{told}, run {min(seconds):.2f} s, {(peak[0] - before) / 1e6:.0f} MB"


def anonymous() -> int:
    """Bytes of this process's own memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
