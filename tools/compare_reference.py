#!/usr/bin/env python3
"""Merge the pairs of shared/ with each method and compare with the reference implementation's results.

    python tools/compare_reference.py [--pair NAME ...] [--method NAME ...] [--alpha A ...] [--share S ...]
        [--width W ...] [--samples N] [--first-export] [--markdown] [--append FILE]

Needs onnxmerge, Pillow and the folder of real material beside the checkout (or in ONNXMERGE_SHARED): its calib.py
writes the calibration batch, its score.py scores the merged files, reference.json holds what the reference reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from onnxmerge import merge

SHARED = Path(os.environ.get("ONNXMERGE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
EXPORTS = {
    "mnist-mlp": [("a.onnx", "b.onnx")],
    "cifar5-resnet20": [("a.onnx", "b.onnx"), ("a.folded.onnx", "b.folded.onnx")],
    "cifar5-resnet20gn": [("a.onnx", "b.onnx"), ("a.ts.onnx", "b.ts.onnx")],
    "cifar5-vit": [("a.onnx", "b.onnx"), ("a.ts.onnx", "b.ts.onnx")],
}
METHODS = {
    "average": "average",
    "rebasin": "rebasin",
    "act-align": "act_align",
    "mudsc-align": "mudsc_align",
    "zipit": "zipit",
    "weight-zip": "w_zip",
    "mudsc-zip": "mudsc_zip",
    "act-align +ls": None,
    "zipit +ls": None,
    "auto": None,
    "default": None,
    "default +vectors": None,
    "fast": None,
    "fast +vectors": None,
    "best": None,
    "best +vectors": None,
}
"""Method, perhaps with a refinement, and its name in reference.json (None: the reference has nothing of the kind).
``auto`` searches alpha as well. "default", "fast" and "best" are efforts; "+vectors" gives the tasks' class vectors."""
EFFORTS = {"default": "balanced", "fast": "fast", "best": "best"}


def main() -> None:
    """Run what the arguments ask for and print a row for each merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="*", default=list(EXPORTS), choices=list(EXPORTS))
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--alpha", nargs="*", type=float, default=[0.5], help="of mudsc-align and mudsc-zip")
    parser.add_argument("--share", nargs="*", type=float, default=[1.0], help="fractions of the units to merge")
    parser.add_argument("--width", nargs="*", default=["1"], help="as onnxmerge run has it")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--first-export", action="store_true", help="one export of each pair only")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--append", type=Path, metavar="FILE", help="write the rows to a file too, one by one")
    arguments = parser.parse_args()
    head = ("export", "method", "alpha", "joint", "avg", "reference joint", "avg", "seconds", "reference")

    def show(cells: tuple[str, ...]) -> None:
        line = _row(cells, markdown=arguments.markdown)
        print(line, flush=True)
        if arguments.append is not None:
            with arguments.append.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    show(head)
    if arguments.markdown:
        show(("---",) * len(head))
    with tempfile.TemporaryDirectory() as folder:
        for pair in arguments.pair:
            for row in _pair_rows(pair, arguments, Path(folder)):
                show(row)


def _pair_rows(pair: str, arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, ...]]:
    calibration = folder / f"{pair}.npz"
    samples = ("--samples", str(arguments.samples))
    _tool("calib.py", str(SHARED / "pairs" / pair), str(calibration), *samples)
    reference = json.loads((SHARED / "pairs" / pair / "reference.json").read_text())
    for files in EXPORTS[pair][: 1 if arguments.first_export else None]:
        for method in arguments.method:
            alphas = arguments.alpha if method.startswith("mudsc") else [None]
            for alpha, share, width in product(alphas, arguments.share, arguments.width):
                merged = folder / "merged.onnx"
                started = time.perf_counter()
                name, _, refinement = method.partition(" +")
                settings: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
                settings |= {"effort": EFFORTS[name]} if name in EFFORTS else {"method": name}
                settings |= {"tasks": SHARED / "pairs" / pair / "pair.json"} if refinement == "vectors" else {}
                settings |= {"refine": refinement} if refinement and refinement != "vectors" else {}
                sizes = {name: value for name, value in (("share", share), ("width", _width(width))) if value != 1}
                settings |= sizes
                settings |= {"alpha": "auto"} if name == "auto" else {}
                models = [SHARED / "pairs" / pair / file for file in files]
                result = merge(models, calibration=calibration, **settings)
                result.save(merged)
                seconds = time.perf_counter() - started
                size = result.report.footprints[-1].parameters / result.report.footprints[0].parameters
                told = (f"({size:.2f}x)",) if sizes else ()
                scores = json.loads(_tool("score.py", str(SHARED / "pairs" / pair), str(merged), "--json"))
                found, known = scores[str(merged)], None if sizes else reference.get(METHODS[method])
                yield (
                    f"{pair}/{files[0]}",
                    " ".join((method, *(f"--{name} {value}" for name, value in sizes.items()), *told)),
                    "" if alpha is None else f"{alpha:g}",
                    *_percent(found),
                    *(("", "") if known is None else _percent(known)),
                    f"{seconds:.1f}",
                    "" if known is None else f"{known['seconds']:.1f}",
                )


def _width(told: str) -> float | str:
    return told if "=" in told else float(told)


def _percent(scores: dict[str, Any]) -> tuple[str, str]:
    joint = scores["joint"]
    return "-" if joint is None else f"{100 * joint:.2f}", f"{100 * scores['avg']:.2f}"


def _tool(name: str, *arguments: str) -> str:
    command = [sys.executable, str(SHARED / "tools" / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own tools


def _row(cells: tuple[str, ...], *, markdown: bool) -> str:
    if markdown:
        return "| " + " | ".join(cells) + " |"
    return f"{cells[0]:32s} " + " ".join(f"{cell:>15s}" for cell in cells[1:])


if __name__ == "__main__":
    main()
