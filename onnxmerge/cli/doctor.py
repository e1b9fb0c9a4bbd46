"""``onnxmerge doctor``: what a report of a fault should say of the machine and of what is installed."""

from __future__ import annotations

import json
import os
import platform

import click

from onnxmerge.memory import memory_budget, readable
from onnxmerge.model.runtimes import PROVIDERS
from onnxmerge.report.terminal import emit, terminal
from onnxmerge.version import __version__, libraries


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def doctor(*, as_json: bool) -> None:
    """Say what is here: versions, providers, memory, threads; paste it into a report of a fault.

    Nothing is sent anywhere. Providers are really loaded, on a network of one node.
    """
    found = environment()
    if as_json:
        emit(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        terminal().say(f"{name:{width}s}  {value}")


def environment() -> dict[str, str]:
    """What it says, by name."""
    refused = {name: runtime.missing(name) for name, runtime in PROVIDERS.items()}
    threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    return {
        "onnxmerge": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        **libraries(),
        **{f"provider {name}": "works" if why is None else f"no: {why}" for name, why in refused.items()},
        "processors": str(os.cpu_count()),
        "threads by environment": ", ".join(f"{name}={value}" for name, value in sorted(threads.items())) or "not set",
        "memory that a run may take": readable(memory_budget()),
        "ONNX Runtime's telemetry": "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on, by your choice",
    }
