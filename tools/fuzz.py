#!/usr/bin/env python3
"""Feed broken models, calibration files, labels and recipes to the command line, and keep what makes it crash.

    python tools/fuzz.py [--minutes 20] [--seed 0] [--folder fuzz-hits] [--case NUMBER]

Every case runs in a forked process of its own. A crash is an internal error or an exception that leaves the program,
a signal, an exit code other than 0 to 3, more than 20 s of processor time (or 120 s on the clock), or more than 1.5 GB.
The files and the command of each crash are kept in a folder. So are those of a check that failed (exit code 3), which
is no crash, but may be a fault of the typing. Exit code 0: no crash; 3: some.

Case number N of a seed is always the same: ``--case N`` runs it alone and shows what it says.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from onnx import ModelProto

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import onnxmerge  # noqa: E402  (the checkout that this file stands in)
from onnxmerge.cli import main  # noqa: E402
from tools.fuzzing import files, models  # noqa: E402

SECONDS = 20
"""Of processor time."""
PATIENCE = 120
"""Seconds on the clock: the machine may be busy with other things."""
ALLOWED = "1GB"
"""What the command is told that models and data may take: by default it is most of what the machine has."""
MEMORY = 1_500_000_000
"""Bytes, at the peak, Python and its libraries included."""
OWN = {"a.onnx", "b.onnx"}

METHODS = ("average", "rebasin", "act-align", "mudsc-align", "zipit", "weight-zip", "mudsc-zip", "c2m3", "auto")
EXTRAS: tuple[tuple[str, ...], ...] = (
    (), (), (), ("--dry-run",), ("--heads", "separate"), ("--refine", "ls"), ("--refine", "regmean"),
    ("--repair", "none"), ("--share", "0.5"), ("--json", "report.json"), ("--output-type", "float16"),
    ("--rotate",), ("--samples", "16"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ending:
    """How a case ended: ``crash`` says what was wrong (None: nothing), ``kind`` what is counted."""

    kind: str
    crash: str | None
    output: str


def build_case(number: int, seed: int, folder: Path) -> list[str]:
    """Write the files of a case and return its command line."""
    random = Random(f"{seed}/{number}")
    pool = models.seeds()
    if random.random() < 0.7:
        return _broken_model(random, random.choice(pool)(), folder)
    for name in OWN:
        shutil.copy(ROOT / "onnxmerge" / "examples" / "digits" / name, folder / name)
    return random.choice((_broken_calibration, _broken_labels, _broken_images, _broken_recipe))(random, folder)


def _broken_model(random: Random, model: ModelProto, folder: Path) -> list[str]:
    (folder / "a.onnx").write_bytes(models.mutate(model, random))
    command = random.choice(("inspect", "certify", "explain", "permute", "run", "run", "run"))
    if command == "inspect":
        return ["inspect", "a.onnx", "--json"]
    if command == "certify":
        return ["inspect", "a.onnx", "--certify"]
    if command == "explain":
        names = [tensor.name for tensor in model.graph.initializer] or ["w"]
        return ["inspect", "a.onnx", "--explain", random.choice(names).replace("\0", "") or "w"]
    if command == "permute":
        return ["permute", "a.onnx", "-o", "permuted.onnx"]
    other = random.choice((model.SerializeToString(), (folder / "a.onnx").read_bytes(), models.mutate(model, random)))
    (folder / "b.onnx").write_bytes(other)
    pair, method = random.sample(["a.onnx", "b.onnx"], 2), random.choice(("average", "rebasin"))
    return ["run", *pair, "-o", "merged.onnx", "--method", method, *random.choice(EXTRAS)]


def _write_calibration(random: Random, folder: Path) -> str:
    kind = random.randrange(3)
    if kind == 0:
        (folder / "data.npz").write_bytes(files.broken(files.archive, random))
        return "data.npz"
    if kind == 1:
        (folder / "data.npy").write_bytes(files.broken(files.array_file, random))
        return "data.npy"
    example = (ROOT / "onnxmerge" / "examples" / "digits" / "calib.npz").read_bytes()
    (folder / "data.npz").write_bytes(models.scrambled(example, random))
    return "data.npz"


def _broken_calibration(random: Random, folder: Path) -> list[str]:
    data = _write_calibration(random, folder)
    options = ("--samples", "64", "--method", random.choice(METHODS), *random.choice(EXTRAS))
    return ["run", "a.onnx", "b.onnx", "--calib", data, "-o", "merged.onnx", *options]


def _broken_labels(random: Random, folder: Path) -> list[str]:
    data = str(ROOT / "onnxmerge" / "examples" / "digits" / "test.npz")
    suffix = random.choice((".txt", ".csv", ".npy", ".npz"))
    name = f"labels{suffix}"
    make = {".npy": files.array_file, ".npz": files.archive}.get(suffix, files.labels)
    (folder / name).write_bytes(files.broken(make, random))
    if random.random() < 0.3:
        example = (ROOT / "onnxmerge" / "examples" / "digits" / "task.json").read_bytes()
        (folder / "tasks.json").write_bytes(models.scrambled(example, random))
        return ["eval", "a.onnx", "--data", data, "--labels", name, "--tasks", "tasks.json"]
    if random.random() < 0.3:
        return ["eval", "a.onnx", "--data", data, "--labels", name, "--vectors", name, "--top-k", "1,5"]
    return ["eval", "a.onnx", "--data", data, "--labels", name, *random.choice(((), ("--regression",)))]


def _broken_images(random: Random, folder: Path) -> list[str]:
    (folder / "images").mkdir()
    for index in range(random.randrange(1, 6)):
        suffix = random.choice(("png", "jpg", "bmp", "gif", "tif", "webp", "npy", "npz", "txt"))
        make = {"npy": files.array_file, "npz": files.archive}.get(suffix, files.image)
        (folder / "images" / f"{index}.{suffix}").write_bytes(files.broken(make, random))
    size = random.choice(("8", "8x8", "4", "0", "100000000"))
    return ["run", "a.onnx", "b.onnx", "--calib", "images", "--image-size", size, "-o", "merged.onnx"]


def _broken_recipe(random: Random, folder: Path) -> list[str]:
    shutil.copy(ROOT / "onnxmerge" / "examples" / "digits" / "calib.npz", folder / "calib.npz")
    (folder / "labels.txt").write_text("0\n" * 128)
    (folder / "recipe.yaml").write_bytes(files.broken(files.recipe, random))
    return ["run", "recipe.yaml", *random.choice(((), ("--dry-run",), ("--save-recipe", "saved.yaml")))]


def run_case(number: int, seed: int, folder: Path) -> Ending:
    """Run a case in a forked process, and say how that ended."""
    said = folder / "output.txt"
    child = os.fork()
    if child == 0:
        _act(number, seed, folder, said)
    limit = _wait(child)
    _, status, used = os.wait4(child, 0)
    output = said.read_text(errors="replace") if said.exists() else ""
    memory = used.ru_maxrss * 1024
    if limit is not None:
        return Ending("crash", limit, output)
    if os.WIFSIGNALED(status):
        return Ending("crash", f"ended by {signal.Signals(os.WTERMSIG(status)).name}", output)
    code = os.waitstatus_to_exitcode(status)
    if code not in range(4) or "internal error" in output:
        return Ending("crash", f"exit code {code}", output)
    if memory > MEMORY:
        return Ending("crash", f"{memory:,} bytes", output)
    return Ending(f"exit code {code}", None, output)


def _act(number: int, seed: int, folder: Path, said: Path) -> None:
    """In the forked process: build the case, run the command, leave with its exit code."""
    code = 70
    try:
        arguments = [*build_case(number, seed, folder), "--max-memory", ALLOWED]
        (folder / "command.txt").write_text("onnxmerge " + " ".join(arguments) + "\n")
        os.chdir(folder)
        out = os.open(said, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["ONNXMERGE_TRACEBACK"] = "1"
        sys.argv = ["onnxmerge", *arguments]
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001  (nothing may come back into the process that runs the cases)
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(child: int) -> str | None:
    """Wait for a process; end it where it takes too much, and say of what."""
    begun = time.monotonic()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        taken = _taken(child)
        if taken is not None:
            seconds, memory = taken
            reason = f"{memory:,} bytes" if memory > MEMORY else f"{seconds:.0f} s of processor time"
            if memory > MEMORY or seconds > SECONDS or time.monotonic() - begun > PATIENCE:
                os.kill(child, signal.SIGKILL)
                return reason if memory > MEMORY or seconds > SECONDS else f"{PATIENCE} s on the clock"
        time.sleep(0.02)
    return None


def _taken(child: int) -> tuple[float, int] | None:
    """Seconds of processor time and the peak of memory; None where the process has just ended."""
    try:
        times = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        lines = Path(f"/proc/{child}/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), peak


def _import_all() -> None:
    """Import what commands import when they need it: else every process would do so anew."""
    for module in pkgutil.walk_packages(onnxmerge.__path__, "onnxmerge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-hits"))
    parser.add_argument("--case", type=int, default=None)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    return parser.parse_args(given)


def run(given: Sequence[str] | None = None) -> int:
    """Run cases until the time is up. Returns the exit code."""
    options = _arguments(given)
    counts: Counter[str] = Counter()
    _import_all()
    end = time.monotonic() + 60 * options.minutes
    number = options.first if options.case is None else options.case
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="onnxmerge-fuzz-") as name:
            ending = run_case(number, options.seed, Path(name))
            counts[ending.kind] += 1
            if options.case is not None:
                print((Path(name) / "command.txt").read_text(), ending.output, sep="")
            if ending.crash is not None or ending.kind == "exit code 3":
                kept = options.folder / f"{options.seed}-{number}"
                shutil.copytree(name, kept, dirs_exist_ok=True)
                print(f"case {number}: {ending.crash or ending.kind}; {kept}", flush=True)
        if options.case is not None:
            break
        number += 1
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
    print(f"seed {options.seed}: {counts.total()} cases in {options.minutes:g} minutes; {kinds}")
    return 3 if counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(run())
