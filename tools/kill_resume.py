#!/usr/bin/env python3
"""Kill a merge at random moments, resume it, and compare the bytes and the processor time with one that was left alone.

    PYTHONPATH=. python tools/kill_resume.py a.onnx b.onnx --calib DATA [--kills 10] [--in-a-row 10] [-- OPTIONS]

The merge is done once without a work folder. Then, for each of --kills moments drawn evenly over the time that this
took, it is begun with a new work folder, killed by SIGKILL, and resumed. A line for each: the moment, the processor
seconds that went until the kill and after it, and whether the bytes are the same; exit code 3 if any differ. Last, one
merge that is killed --in-a-row times before it is let end. OPTIONS are those of `onnxmerge run`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure, and print a line for each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--in-a-row", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    own, rest = words[:place], words[place + 1 :]
    arguments = parser.parse_args(own)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        merged, work = folder / "m.onnx", folder / "work"
        command = [sys.executable, "-m", "onnxmerge", "run", *map(str, arguments.models), "-q", "-o", str(merged)]
        command += ["--calib", str(arguments.calib), *rest]
        resumed = [*command, "--work-dir", str(work), "--resume"]
        seconds, whole = _run(command)
        aim = _digest(merged)
        print(f"left alone: {whole:.1f} s of processor time, {seconds:.1f} s, {aim[:16]}", flush=True)
        _, kept = _run(resumed)
        _, again = _run(resumed)
        size = sum(path.stat().st_size for path in work.iterdir()) / 1e6
        same = [_digest(merged) == aim]
        print(f"keeping: {kept:.1f} s; repeated: {again:.1f} s; {size:.1f} MB kept; {_told(same[-1])}", flush=True)
        for _ in range(arguments.kills):
            shutil.rmtree(work)
            moment = rng.uniform(0, seconds)
            _, before = _run(resumed, kill=moment)
            merged.unlink(missing_ok=True)
            _, after = _run(resumed)
            same.append(_digest(merged) == aim)
            print(
                f"killed after {moment:6.1f} s and {before:6.1f} s of processor time; resumed: {after:6.1f} s of it, "
                f"{before + after - whole:+6.1f} s in all; {_told(same[-1])}",
                flush=True,
            )
        shutil.rmtree(work)
        merged.unlink()
        times = arguments.in_a_row
        spent = sum(_run(resumed, kill=rng.uniform(0, seconds / 2))[1] for _ in range(times)) + _run(resumed)[1]
        same.append(_digest(merged) == aim)
        print(f"killed {times} times in a row: {spent:.1f} s of processor time; {_told(same[-1])}", flush=True)
    sys.exit(0 if all(same) else 3)


def _run(command: list[str], kill: float | None = None) -> tuple[float, float]:
    """Run a command, killed after so many seconds; the seconds and the processor seconds that it took."""
    before, started = _spent(), time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 - our own
    try:
        code = process.wait(kill)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        code = process.wait()
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"ended with {code}: {' '.join(command)}")
    return time.perf_counter() - started, _spent() - before


def _spent() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _told(same: bool) -> str:  # noqa: FBT001 - its only argument
    return "the same bytes" if same else "OTHER BYTES"


if __name__ == "__main__":
    main()
