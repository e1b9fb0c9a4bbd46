"""Export the architectures of the catalogue and store each as a topology (tests/zoo/topology.py).

    python3.11 -m venv /tmp/zoovenv
    /tmp/zoovenv/bin/pip install torch==2.14.1 torchvision==0.29.1 timm transformers onnx onnxscript onnxruntime PyYAML
    PYTHONPATH=. /tmp/zoovenv/bin/python tools/zoo/export.py                  # all that is not there yet
    PYTHONPATH=. /tmp/zoovenv/bin/python tools/zoo/export.py 'timm/*' --again

Nothing is downloaded: weights are random. Each export runs in a process of its own with a time limit, so that one
that fails or hangs does not stop the rest. Failures are listed at the end and do not change what is stored.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import yaml
from torch import Tensor, nn

from tests.zoo.topology import FOLDER, SUFFIX, load_topology
from tools.zoo.balance import balance
from tools.zoo.builders import Entry, build
from tools.zoo.plausible import calibrate, learned, make_plausible
from tools.zoo.strip import Parameters, save, strip

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
OPSETS = {"dynamo": 20, "torchscript": 17}
TIMEOUT = 420


def entries(path: Path = CATALOGUE) -> Iterator[Entry]:
    """The catalogue, with the defaults of each section filled in."""
    for section in yaml.safe_load(path.read_text(encoding="utf-8")):
        defaults = {key: value for key, value in section.items() if key != "models"}
        for item in section["models"]:
            own: dict[str, Any] = {"name": item} if isinstance(item, str) else dict(item)
            merged = {**defaults, **own}
            merged["arguments"] = {**section.get("arguments", {}), **own.get("arguments", {})}
            merged["exporters"] = tuple(merged.get("exporters", ("dynamo", "torchscript")))
            merged["outputs"] = tuple(merged.get("outputs", ()))
            yield Entry(**merged)


def main() -> int:
    """Export what is asked for; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Export architectures as topologies.")
    parser.add_argument("patterns", nargs="*", default=["*"], help="which, as SOURCE/NAME; shell wildcards")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--again", action="store_true", help="export what is already there as well")
    parser.add_argument("--timeout", type=float, default=TIMEOUT)
    parser.add_argument("--only", choices=sorted(OPSETS), help="try no other exporter")
    arguments = parser.parse_args()
    failures = []
    for entry in entries():
        title = f"{entry.source}/{entry.name}"
        if not any(fnmatch.fnmatch(title, pattern) for pattern in arguments.patterns):
            continue
        for exporter in entry.exporters if arguments.only is None else [arguments.only]:
            path = arguments.folder / entry.source / f"{entry.name}.{exporter}{SUFFIX}"
            if path.exists() and not arguments.again:
                said = "there"
            else:
                said = _in_process(replace(entry, exporters=(exporter,)), path, arguments.timeout)
            print(f"{title} {exporter}: {said}", flush=True)
            failed = said.startswith("FAILED")
            if failed:
                failures.append(f"{title} {exporter}: {said}")
            elif not entry.both:
                break
    print(*failures, sep="\n")
    return bool(failures)


def _in_process(entry: Entry, path: Path, timeout: float) -> str:
    """Export in a forked process (the libraries are loaded already); what it said, or why it failed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(entry, path, sender))
    process.start()
    sender.close()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        return f"FAILED: no result within {timeout:.0f} s"
    try:
        return str(receiver.recv())
    except EOFError:
        return f"FAILED: exit code {process.exitcode}"


def _report(entry: Entry, path: Path, sender: Any) -> None:
    started = time.monotonic()
    silent = os.open(os.devnull, os.O_WRONLY)  # exporters print whole graphs, from C++ too
    os.dup2(silent, sys.stdout.fileno())
    os.dup2(silent, sys.stderr.fileno())
    try:
        said = export(entry, path)
    except Exception as error:  # noqa: BLE001  (whatever an exporter raises is a finding, not a crash)
        last = traceback.extract_tb(error.__traceback__)[-1]
        sender.send(f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]} ({last.name})")
    else:
        sender.send(f"{said}, {time.monotonic() - started:.0f} s")


def export(entry: Entry, path: Path) -> str:
    """Export with the entry's first exporter and store the topology; says what came out."""
    exporter = entry.exporters[0]
    network, inputs = build(entry)
    make_plausible(network)
    calibrate(network, lambda: network(*(_larger(tensor) for tensor in inputs)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = _dynamo(network, inputs, entry) if exporter == "dynamo" else _torchscript(network, inputs, entry)
    original = onnx.ModelProto()
    original.CopyFrom(model)
    dropped = strip(model, Parameters(learned(network)))
    names = [value.name for value in model.graph.input]
    balance(model, original, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    nodes = len(model.graph.node)
    size = save(model, path)
    try:
        checked = check(path, inputs)
    except Exception:
        path.unlink()
        raise
    note = f", tables drawn anew: {dropped}" if dropped else ""
    return f"{nodes} nodes, {size / 1000:.1f} kB, outputs {checked}{note}"


def _dynamo(network: nn.Module, inputs: tuple[Tensor, ...], entry: Entry) -> onnx.ModelProto:
    def run(*, dynamic: bool) -> onnx.ModelProto:
        batch = torch.export.Dim("batch", min=1, max=4096) if dynamic else None
        shapes = (tuple({0: batch} for _ in inputs),) if dynamic else None
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(entry.inputs),
            opset_version=OPSETS["dynamo"],
            verbose=False,
        )
        if program is None:
            raise RuntimeError("the exporter returned nothing")
        made: onnx.ModelProto = program.model_proto
        return made

    if entry.dynamic and all(tensor.dim() > 0 for tensor in inputs):
        try:
            return run(dynamic=True)
        except Exception:  # noqa: BLE001, S110  (many networks cannot do without a fixed batch)
            pass
    return run(dynamic=False)


def _torchscript(network: nn.Module, inputs: tuple[Tensor, ...], entry: Entry) -> onnx.ModelProto:
    buffer = io.BytesIO()
    names = list(entry.inputs)
    axes = {name: {0: "batch"} for name in names} if entry.dynamic else None
    torch.onnx.export(
        network,
        inputs,
        buffer,
        dynamo=False,
        input_names=names,
        dynamic_axes=axes,
        opset_version=OPSETS["torchscript"],
    )
    made: onnx.ModelProto = onnx.ModelProto.FromString(buffer.getvalue())
    return made


def _larger(tensor: Tensor) -> Tensor:
    """More samples, for the statistics of a batch; token ids are repeated."""
    repeats = [4 if tensor.dim() and tensor.shape[0] < 4 else 1, *[1] * (tensor.dim() - 1)]
    repeated = tensor.repeat(repeats) if tensor.dim() else tensor
    return torch.randn_like(repeated) if repeated.is_floating_point() else repeated


def check(path: Path, inputs: tuple[Tensor, ...]) -> str:
    """Run the stored topology: outputs must be finite and not constant. Says their sizes."""
    model = load_topology(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {declared.name: tensor.numpy() for declared, tensor in zip(session.get_inputs(), inputs, strict=True)}
    sizes = []
    for output in session.run(None, feeds):
        if output.dtype.kind == "f":
            if not np.all(np.isfinite(output)):
                raise ValueError("an output is not finite")
            sizes.append(f"{float(np.sqrt(np.mean(np.square(output.astype(np.float64))))):.2g}")
    return f"rms {', '.join(sizes[:4])}"


def _preload() -> None:
    """Load the libraries once, before forking."""
    import timm  # noqa: F401
    import torchvision  # noqa: F401
    import transformers  # noqa: F401


if __name__ == "__main__":
    _preload()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(value=False)  # an operator of its own that TorchScript cannot export
    sys.exit(main())
