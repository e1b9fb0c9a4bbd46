#!/usr/bin/env python3
"""Runs parents and merges in every runtime that a merge may be deployed to, and compares what they answer.

    PYTHONPATH=. python tools/runtimes.py --page docs/runtimes.md
    PYTHONPATH=. python tools/runtimes.py --runtime openvino --runtime opencv --case digits

The runtimes come from PyPI and npm, the newest there is, each into an environment of its own in --cache, where it stays
(delete a folder to have a newer one). The scripts of tools/runners run there and read and write .npy files. Each output
is compared with that of the newest ONNX Runtime on the CPU: max |a - b| / max |a|. A merge may be no further off than
BAR unless a parent is: then that is the runtime. Exits with 1 where a merge fails that its parents do not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from packaging.requirements import Requirement
from PIL import Image

from tools.environments import Absent, browser, cache, npm, pip, program

CHECKOUT = Path(__file__).resolve().parents[1]
RUNNERS = Path(__file__).resolve().parent / "runners"
BAR = 1e-4
NEWEST = "onnxruntime newest"
"""What the others are compared with."""

SAMPLES = 8
CALIBRATION = 256
PATIENCE = 900.0
"""Seconds after which a runtime is stuck."""


class Stuck(RuntimeError):  # noqa: N818 - what it is, not what went wrong
    """A runtime that does not end."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime: where it comes from, and the script that runs it.

    ``packages`` from PyPI or, where ``node``, from npm; none where it is in the environment of this Python. ``runner``
    is what follows the interpreter, with {modules} and {browser} in it.
    """

    label: str
    runner: tuple[str, ...]
    packages: tuple[str, ...] = ()
    node: bool = False


def _oldest() -> str:
    """The oldest ONNX Runtime that pyproject.toml allows."""
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [each for each in text.splitlines() if each.strip().startswith('"onnxruntime>=')]
    (bound,) = Requirement(line.strip().strip('",').partition(" ;")[0]).specifier
    return f"onnxruntime=={bound.version}.0"


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime newest": Runtime("ONNX Runtime, newest", ("run.py", "onnxruntime"), ("onnxruntime",)),
    "onnxruntime oldest": Runtime("ONNX Runtime, oldest", ("run.py", "onnxruntime"), (_oldest(),)),
    "reference": Runtime("onnx reference evaluator", ("run.py", "reference"), ("onnx",)),
    "openvino": Runtime("OpenVINO", ("run.py", "openvino"), ("openvino",)),
    "node": Runtime("onnxruntime-node", ("node.mjs", "{modules}"), ("onnxruntime-node",), node=True),
    "web": Runtime("onnxruntime-web", ("web.py", "{browser}", "{modules}"), ("onnxruntime-web",), node=True),
    "opencv": Runtime("OpenCV DNN", ("run.py", "opencv"), ("opencv-python-headless",)),
    "cuda": Runtime("ONNX Runtime, CUDA", ("run.py", "cuda")),
    "tensorrt": Runtime("ONNX Runtime, TensorRT", ("run.py", "tensorrt")),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Two parents and how they are merged: options of ``onnxmerge run``."""

    pair: str
    options: tuple[str, ...] = ()

    def parents(self, shared: Path) -> tuple[Path, Path]:
        folder = CHECKOUT / "onnxmerge" / "examples" / self.pair
        if not folder.is_dir():
            folder = shared / "pairs" / self.pair
        if not folder.is_dir():
            raise Absent(f"no folder {folder} (set ONNXMERGE_SHARED)")
        return folder / "a.onnx", folder / "b.onnx"


CASES: Mapping[str, Case] = {
    "digits": Case("digits"),
    "digits, two heads": Case("digits", ("--method", "mudsc-align", "--heads", "separate")),
    "digits, half shared": Case("digits", ("--method", "mudsc-align", "--share", "0.5")),
    "digits, wider": Case("digits", ("--method", "zipit", "--width", "1.5")),
    "digits, repaired": Case("digits", ("--method", "mudsc-align", "--repair", "repair")),
    "mnist-mlp": Case("mnist-mlp", ("--method", "mudsc-align")),
    "cifar5-resnet20": Case("cifar5-resnet20", ("--method", "mudsc-align")),
    "cifar5-resnet20gn": Case("cifar5-resnet20gn", ("--method", "mudsc-align")),
    "cifar5-vit": Case("cifar5-vit", ("--method", "mudsc-align")),
    "cifar5-vit, two heads": Case("cifar5-vit", ("--method", "mudsc-align", "--heads", "separate")),
    "cifar5-vit, wider": Case("cifar5-vit", ("--method", "zipit", "--width", "1.5")),
}
"""Ways to merge that differ in what they add to a graph, on networks that differ in their operators."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one runtime makes of one model: how far its outputs are off, or what it says that it cannot do."""

    off: float = float("inf")
    error: str = ""

    @property
    def within(self) -> bool:
        """Whether it is as near as it must be; what is no number is not."""
        return self.off <= BAR


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured: versions or reasons of absence by runtime, and answers by case, model and runtime.

    ``broken`` are the runtimes that are here and ran nothing at all, with what they said. These have no answers.
    """

    versions: Mapping[str, str]
    absent: Mapping[str, str]
    answers: Mapping[str, Mapping[str, Mapping[str, Answer]]]
    broken: Mapping[str, str] = field(default_factory=dict)

    def failed(self) -> list[str]:
        """The runtimes that ran nothing, and the merges that are off in one that runs both parents within the bar."""
        return [f"{name}: {said}" for name, said in self.broken.items()] + [
            f"{case} in {name}: {answer.error or f'{answer.off:.1e}'}"
            for case, models in self.answers.items()
            for name, answer in models["merged"].items()
            if not answer.within and all(models[parent][name].within for parent in ("a", "b"))
        ]


def measure(runtimes: Sequence[str], cases: Sequence[str], installed: Path, shared: Path) -> Found:
    """Merge the cases that there are, run all in the runtimes that there are, and compare."""
    with tempfile.TemporaryDirectory(prefix="onnxmerge-runtimes-") as temporary:
        folder = Path(temporary)
        models = {case: found for case in cases if (found := _merged(CASES[case], folder / case, shared))}
        jobs = [_job(case, path, folder / case) for case, paths in models.items() for path in paths]
        versions: dict[str, str] = {}
        absent: dict[str, str] = {}
        broken: dict[str, str] = {}
        errors: dict[str, dict[str, str]] = {}
        for name in dict.fromkeys([NEWEST, *runtimes]):
            try:
                versions[name], errors[name] = _run(name, jobs, installed, folder)
            except Absent as reason:
                absent[name] = str(reason)
            except RuntimeError as wrong:
                broken[name] = _short(str(wrong))
            print(f"{name}: {({**absent, **broken, **versions})[name]}", file=sys.stderr, flush=True)
        if NEWEST not in versions:
            raise Absent({**absent, **broken}[NEWEST])
        answers = {
            case: {
                path.stem: {
                    name: _compared(name, _job(case, path, folder / case), {**errors[NEWEST], **errors[name]})
                    for name in runtimes
                    if name in versions
                }
                for path in paths
            }
            for case, paths in models.items()
        }
    return Found(versions, absent, answers, broken)


def _merged(case: Case, folder: Path, shared: Path) -> list[Path]:
    """Both parents, their merge and an input in a folder; nothing where the parents are not here."""
    try:
        parents = case.parents(shared)
    except Absent as reason:
        print(f"{case.pair}: {reason}", file=sys.stderr)
        return []
    folder.mkdir()
    paths = [Path(shutil.copy(path, folder)) for path in parents]
    name, images = _images(parents[0].parent, shared)
    np.save(folder / "input.npy", images[:SAMPLES])
    arrays: dict[str, Any] = {name: images}
    np.savez(folder / "calib.npz", **arrays)
    merged = folder / "merged.onnx"
    command = ["-m", "onnxmerge", "run", *map(str, paths), "--calib", str(folder / "calib.npz")]
    options = [*case.options, "--provider", "cpu", "-q", "-o", str(merged)]
    subprocess.run([sys.executable, *command, *options], check=True, cwd=CHECKOUT)  # noqa: S603 - the cases above
    return [*paths, merged]


def _images(folder: Path, shared: Path) -> tuple[str, NDArray[np.float32]]:
    """The name of the input of a pair's networks, and what they read [n, ...]."""
    if (folder / "calib.npz").is_file():
        with np.load(folder / "calib.npz") as data:
            (name,) = data.files
            return name, np.asarray(data[name])
    pair = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    with np.load(shared / "data" / f"{pair['data']}.npz") as data:
        found = np.stack([_image(data, index) for index in data["calib"][:CALIBRATION]])
    return pair["input"], np.asarray(found / 255 * 2 - 1, np.float32)


def _image(data: Any, index: int) -> NDArray[np.float32]:
    """One training image [channels, height, width] of 0 to 255."""
    if "x_train" in data:
        return np.asarray(data["x_train"][index][None], np.float32)
    ends = data["ends_train"]
    file = data["jpeg_train"][ends[index - 1] if index else 0 : ends[index]].tobytes()
    return np.asarray(Image.open(io.BytesIO(file)), np.float32).transpose(2, 0, 1)


def _job(case: str, path: Path, folder: Path) -> dict[str, Any]:
    """What a runner is told of a model; {} in the name of an output's file is for the runtime."""
    graph = onnx.load(path, load_external_data=False).graph
    (read,) = [value.name for value in graph.input]
    outputs = {value.name: str(folder / f"{path.stem}.{at}.{{}}.npy") for at, value in enumerate(graph.output)}
    return {
        "name": f"{case}/{path.stem}",
        "model": str(path),
        "inputs": {read: str(folder / "input.npy")},
        "outputs": outputs,
    }


def _for(name: str, job: Mapping[str, Any]) -> dict[str, Any]:
    return {**job, "outputs": {key: file.format(name) for key, file in job["outputs"].items()}}


def _run(name: str, jobs: Sequence[Mapping[str, Any]], installed: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """The version of a runtime, and what it said of each model that it cannot run; RuntimeError where it runs none."""
    program = environment(name, installed)
    try:
        return _ran(name, program, jobs, folder)
    except RuntimeError:  # one model kills it or holds it up, perhaps: each by itself
        version, errors = "", {}
        for job in jobs:
            try:
                version, own = _ran(name, program, [job], folder)
            except RuntimeError as killed:
                if not version and isinstance(killed, Stuck):
                    raise  # it begins with none: to wait for each of the others would take hours
                own = {job["name"]: str(killed)}
            errors.update(own)
        if not version:
            raise
        return version, errors


def _ran(
    name: str, program: Sequence[str], jobs: Iterable[Mapping[str, Any]], folder: Path
) -> tuple[str, dict[str, str]]:
    asked, result = folder / f"{name}.jobs.json", folder / f"{name}.result.json"
    asked.write_text(json.dumps([_for(name, job) for job in jobs]))
    result.unlink(missing_ok=True)
    try:
        ended = subprocess.run(  # noqa: S603 - the runners of this folder
            [*program, str(asked), str(result)],
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Stuck(f"{name}: no answer within {PATIENCE:g} seconds") from None
    if not result.is_file():
        said = (ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1]
        raise RuntimeError(f"{name}: {said}")
    found = json.loads(result.read_text())
    return found["version"], found["errors"]


def environment(name: str, installed: Path) -> list[str]:
    """The command that runs a runtime, installed in a folder of ``installed`` first; Absent where it cannot be."""
    runtime = RUNTIMES[name]
    script, *arguments = runtime.runner
    if not runtime.packages:
        if shutil.which("nvidia-smi") is None:
            raise Absent("no GPU here")
        return [sys.executable, str(RUNNERS / script), *arguments]
    folder = installed / name.replace(" ", "-")
    if runtime.node:
        modules = npm(runtime.packages, folder)
        given = {"modules": str(modules), "browser": browser() if "{browser}" in arguments else ""}
        interpreter = [program("node")] if script.endswith(".mjs") else [sys.executable]
        return [*interpreter, str(RUNNERS / script), *(each.format(**given) for each in arguments)]
    return [str(pip(runtime.packages, folder)), str(RUNNERS / script), *arguments]


def _compared(name: str, job: Mapping[str, Any], errors: Mapping[str, str]) -> Answer:
    if job["name"] in errors:
        return Answer(error=_short(errors[job["name"]]))
    pairs = zip(_for(NEWEST, job)["outputs"].values(), _for(name, job)["outputs"].values(), strict=True)
    return Answer(max(off(np.load(wanted), np.load(found)) for wanted, found in pairs))


def off(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest of |a - b| over that of |a|; infinite where shapes differ or one of them has what is no number."""
    if wanted.shape != found.shape or not (np.isfinite(wanted).all() and np.isfinite(found).all()):
        return float("inf")
    scale = float(np.abs(wanted).max())
    return float(np.abs(wanted.astype(np.float64) - found).max()) / (scale or 1.0)


def _short(error: str) -> str:
    """The last line of what a runtime says that says something."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "failed"


_INTRODUCTION = """# Runtimes

    PYTHONPATH=. python tools/runtimes.py --page docs/runtimes.md

made this page: it merges the networks below, runs parents and merges on {samples} samples in every runtime, each
installed by itself, and compares the outputs with those of the newest ONNX Runtime on the CPU. Numbers are
max |a - b| / max |a|, the largest over a model's outputs; *the same* is to the bit. The bar is {bar:.0e}. How to deploy
a merge: [Deploying](deploying.md).
"""

_MEANING = """
A cell that says *parents too* is of a runtime that cannot run the parents either, or is as far off on them. The merges
of this page have no operator that their parents lack, but for Gather and Identity where each model keeps a head of its
own. `--output-type float16` adds Cast.
"""


def tables(found: Found) -> list[str]:
    """What was measured, in Markdown."""
    present = [name for name in RUNTIMES if name in found.versions]
    lines = ["| runtime | version |", "| --- | --- |"]
    lines += [f"| {RUNTIMES[name].label} | {found.versions[name]} |" for name in present]
    lines += [f"| {RUNTIMES[name].label} | {found.absent[name]} |" for name in RUNTIMES if name in found.absent]
    lines += [f"| {RUNTIMES[name].label} | failed: {_cleared(found.broken[name])} |" for name in found.broken]
    compared = [name for name in present if name != NEWEST]
    merges = {case: (case, ("merged",)) for case in found.answers}
    parents = {CASES[case].pair: (case, ("a", "b")) for case in found.answers}
    for title, rows in (("Merges", merges), ("Parents, the worse of the two", parents)):
        lines += ["", f"## {title}", "", f"| networks | {' | '.join(RUNTIMES[name].label for name in compared)} |"]
        lines.append(f"| --- |{' --- |' * len(compared)}")
        for label, (case, models) in rows.items():
            cells = [_cell(found.answers[case], models, name) for name in compared]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _cell(answers: Mapping[str, Mapping[str, Answer]], models: Sequence[str], name: str) -> str:
    worst = max((answers[model][name] for model in models), key=lambda answer: (not answer.within, answer.off))
    if worst.within:
        return f"{worst.off:.0e}" if worst.off else "the same"
    said = _cleared(worst.error) or f"**{worst.off:.0e}**"
    shared = not all(answers[parent][name].within for parent in ("a", "b"))
    return f"parents too: {said}" if shared and "merged" in models else said


def _cleared(said: str) -> str:
    """Words that are safe in a cell of a table."""
    return said.replace("|", "\\|")


def page(found: Found) -> str:
    """docs/runtimes.md."""
    lines = [
        _INTRODUCTION.format(samples=SAMPLES, bar=BAR),
        *tables(found),
        _MEANING.rstrip("\n"),
        "",
        "## How each was merged",
        "",
    ]
    lines += ["| networks | options of `onnxmerge run` |", "| --- | --- |"]
    lines += [f"| {name} | {' '.join(CASES[name].options) or 'none'} |" for name in found.answers]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="one of them; repeatable; by default all")
    parser.add_argument("--case", action="append", choices=CASES, help="one of them; repeatable; by default all")
    parser.add_argument("--cache", type=Path, default=cache(), help="where runtimes are installed (%(default)s)")
    parser.add_argument("--page", type=Path, help="write this page")
    options = parser.parse_args()
    shared = Path(os.environ.get("ONNXMERGE_SHARED") or CHECKOUT.parent / "shared")
    try:
        found = measure(options.runtime or list(RUNTIMES), options.case or list(CASES), options.cache, shared)
    except Absent as reason:
        print(f"{NEWEST}: {reason}", file=sys.stderr)
        return 1
    print("\n".join(tables(found)))
    if options.page:
        options.page.write_text(page(found), encoding="utf-8")
    for failure in found.failed():
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if found.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
