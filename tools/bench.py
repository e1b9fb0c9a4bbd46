#!/usr/bin/env python3
"""How long merges take and how much memory, beside the floor of what they cannot do without.

    PYTHONPATH=. python tools/bench.py [JOB ...] [--repeats 3] [--json FILE] [--page docs/performance.md]
    PYTHONPATH=. python tools/bench.py --list

A JOB is a name or the start of one ("resnet50", "decoder/average"); without any, all are done. In each repeat the floor
and `onnxmerge run` are measured one after the other, so that a machine that does other things slows both; the ratio is
of the two. Models and data are made in --folder and kept there. --json writes what was measured, job by job; rows of
other jobs that the file has are kept. --page writes the page of all rows in the file.

--peer CODE times another implementation on the same models and data, in turn with ours: a program (a .py file is
started by this Python) that is called as `CODE METHOD SAMPLES DATA MODEL MODEL ...`, with the job's name for the method
("default" where it has none), and "-" for no data. What it prints is left alone; that it ends with 0 is expected.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.benchmark.floor import measure, work
from tools.benchmark.jobs import JOBS, Job
from tools.benchmark.page import page, row

ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
PAUSE = 0.01
"""Seconds between two looks at the memory of a running command."""


def main() -> None:
    """Measure what the arguments ask for, and print a line for each job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "onnxmerge-bench")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peer", type=Path, metavar="CODE", help="another implementation to time beside (see above)")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    parser.add_argument("--note", default="", metavar="TEXT", help="what the page is to say of the measurement")
    parser.add_argument("--list", action="store_true", help="print the names of all jobs")
    arguments = parser.parse_args()
    chosen = [job for name, job in JOBS.items() if not arguments.jobs or name.startswith(tuple(arguments.jobs))]
    if not chosen:
        parser.error(f"no such job; there are {', '.join(JOBS)}")
    if arguments.list:
        print("\n".join(job.name for job in chosen))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {}
    if arguments.json is not None and arguments.json.exists():
        known = json.loads(arguments.json.read_text(encoding="utf-8"))
    for job in chosen:
        known[job.name] = _measured(job, arguments.folder, max(arguments.repeats, 1), arguments.peer)
        print(row(job.name, known[job.name]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    if arguments.page is not None:
        arguments.page.write_text(
            page({name: known[name] for name in JOBS if name in known}, arguments.note), encoding="utf-8"
        )


def _measured(job: Job, folder: Path, repeats: int, peer: Path | None) -> dict[str, Any]:
    """Floor and command in turn; medians over the repeats, and the first report's stages."""
    models = job.case.models(folder, job.models)
    base = job.case.base(folder) if job.case.base is not None else None
    data = job.case.data(folder) if job.case.data is not None and job.samples else None
    method = job.options[1] if job.options[:1] == ("--method",) else "default"
    beside = None if peer is None else _call(peer, method, job.samples, data, models)
    to_do = work(models, data, job.samples, method, base)
    runs: list[dict[str, Any]] = []
    for _ in range(repeats):
        floor = measure(models, data, job.samples, to_do, folder, base)
        seconds, processor, peak, stages = _run(job, models, data, base, folder)
        runs.append(
            {
                "floor": {**asdict(floor), "seconds": floor.seconds},
                "seconds": seconds,
                "processor_seconds": processor,
                "ratio": seconds / floor.seconds,
                "peak_anonymous": peak,
                "stages": stages,
                "peer_seconds": None if beside is None else _timed(beside),
            }
        )
    middle = sorted(runs, key=lambda run: run["ratio"])[len(runs) // 2]
    return {
        **middle,
        "ratios": [run["ratio"] for run in runs],
        "peak_anonymous": max(run["peak_anonymous"] for run in runs),
        "median_seconds": statistics.median(run["seconds"] for run in runs),
        "reference_seconds": _reference(job),
        "multiply_adds": to_do.by_weights + to_do.by_activations,
        "command": " ".join(["onnxmerge run", *job.options, *([] if base is None else ["--base BASE"])]),
        "samples": job.samples,
        "models": job.models,
    }


def _run(
    job: Job, models: Sequence[Path], data: Path | None, base: Path | None, folder: Path
) -> tuple[float, float, int, dict[str, float]]:
    """`onnxmerge run` as a process of its own: wall and processor seconds, the peak of its anonymous memory, stages."""
    report, output = folder / "report.json", folder / "merged.onnx"
    options = [*job.options, "-o", str(output), "--json", str(report), "--quiet"]
    if data is not None:
        options += ["--calib", str(data), "--samples", str(job.samples)]
    if base is not None:
        options += ["--base", str(base)]
    command = [sys.executable, "-m", "onnxmerge", "run", *map(str, models), *options]
    before = _processor()
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command line
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(PAUSE)
    seconds, processor = time.perf_counter() - started, _processor() - before
    said = "" if process.stderr is None else process.stderr.read()
    if process.returncode:
        raise SystemExit(f"{job.name}: {' '.join(command)} ended with {process.returncode}: {said}")
    stages: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))["seconds"]
    for path in (report, output, output.with_name(f"{output.name}.data")):
        path.unlink(missing_ok=True)
    return seconds, processor, peak, stages


def _processor() -> float:
    """Processor seconds of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _call(peer: Path, method: str, samples: int, data: Path | None, models: Sequence[Path]) -> list[str]:
    """The command line of another implementation."""
    program = [sys.executable, str(peer)] if peer.suffix == ".py" else [str(peer.resolve())]
    return [*program, method, str(samples), "-" if data is None else str(data), *map(str, models)]


def _timed(command: Sequence[str]) -> float:
    """Wall seconds of a program that must end well."""
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - what the user asked to be timed
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}; expected 0")
    return time.perf_counter() - started


def _anonymous(process: int) -> int:
    """Bytes of memory that a process has beyond files that the system holds anyway; Linux only."""
    try:
        found = ANONYMOUS.search(Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return 0
    return 0 if found is None else int(found[1]) * 1024


def _reference(job: Job) -> float | None:
    if job.method is None or job.case.reference is None or not job.case.reference.exists():
        return None
    known = json.loads(job.case.reference.read_text(encoding="utf-8"))
    return float(known[job.method]["seconds"]) if job.method in known else None


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    main()
