#!/usr/bin/env python3
"""Merge the fine-tunes of shared/suite-c100 and score them: mean accuracy within each group's five classes, percent.

    python tools/same_base.py [--way average "average +ls" default "ties scale=0.7" ...] [--suite] [--models N]
                              [--samples N | --own N] [--markdown]

Calibrated on unlabelled training images of all groups, mixed; with --own on so many of each group, as its model's own
(`--calib-of`). A way is a method, with "+ls" least squares and with
"+answer" the ensemble's answer, or a method for models of one pretraining with options of its own ("knots inner=ties",
"tsv-m scale=auto"), which are given the base, and data only to search by
or to refine with ("tsv-m +featcal", "soup +regmean"). "default" is what `onnxmerge run` does by
itself, "default +base" what it does with the base, "best +base" the same with --effort best; --suite adds the settings
that the suite's own reference gives, and the best without labels. Needs onnxmerge, Pillow and the folder of real
material beside the checkout (or in ONNXMERGE_SHARED).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxmerge import merge
from onnxmerge.merging.task_vectors import TASK_VECTORS, ParameterRule
from onnxmerge.model.session import open_session

SHARED = Path(os.environ.get("ONNXMERGE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MEAN, DEVIATION = np.array([125.307, 122.961, 113.8575]), np.array([51.5865, 50.847, 51.255])
"""Of the pixels, as in shared/tools/score.py."""

WAYS = ("average", "average +ls", "default")
SUITE = (
    "soup",
    "task-arithmetic scale=0.4 others=0.125",
    "ties density=0.2",
    "iso-c",
    "actmat",
    "ace",
    "tact",
    "knots inner=tsv-m",
    "tsv-m",
    "tsv-m scale=auto depth=auto",
    "tsv-m scale=2 depth=0.4 +featcal",
)
"""What suite.json has of published methods, at the scales that it gives, and the best with scale and depth found.

Its task arithmetic adds up matrices alone and takes the mean of the rest: others=0.125, for eight models.
"""

OTHERS = ("*bias", "*.g", "*n.weight")
"""Names of what is no matrix in these networks."""


def main() -> None:
    """Merge in each of the ways and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", nargs="*")
    parser.add_argument("--suite", action="store_true")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--own", type=int)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    suite = SHARED / "suite-c100"
    tasks = json.loads((suite / "suite.json").read_text())["tasks"][: arguments.models]
    data = np.load(SHARED / "data" / "cifar100.npz")
    names = [str(name) for name in data["coarse_names"]]
    groups = [np.flatnonzero(data["coarse_of"] == names.index(task["group"])) for task in tasks]
    mine = np.flatnonzero(np.isin(data["y_train"], np.concatenate(groups)))
    chosen = np.random.default_rng(0).permutation(mine)[: arguments.samples]
    test = np.flatnonzero(np.isin(data["y_test"], np.concatenate(groups)))
    held, labels = images_of(data, "test", test), data["y_test"][test]
    vectors = np.load(suite / "vectors.npz")["fine"]
    calibration: NDArray[Any] | None = images_of(data, "train", chosen) if arguments.own is None else None
    own: list[NDArray[Any]] | None = None
    if arguments.own is not None:
        rng = np.random.default_rng(0)
        every = [rng.permutation(np.flatnonzero(np.isin(data["y_train"], group))) for group in groups]
        own = [images_of(data, "train", each[: arguments.own]) for each in every]
    print(_row(("way", "accuracy", "seconds", "what was done"), markdown=arguments.markdown), flush=True)
    if arguments.markdown:
        print(_row(("---",) * 4, markdown=True))
    ways = arguments.way if arguments.way is not None else [] if arguments.suite else WAYS
    for way in (*ways, *(SUITE if arguments.suite else ())):
        started = time.perf_counter()
        settings = _settings(way)
        if settings.get("method") in TASK_VECTORS:
            base = suite / "base.onnx" if TASK_VECTORS[settings["method"]].takes_base else None
            measures = "auto" in settings.values() or "refine" in settings
            given: dict[str, Any] = {"calibration": calibration, "calibration_of": own} if measures else {}
            result = merge([suite / task["file"] for task in tasks], base=base, **given, **settings)
        else:
            base = suite / "base.onnx" if way.endswith("+base") else None
            files = [suite / task["file"] for task in tasks]
            result = merge(files, base=base, calibration=calibration, calibration_of=own, **settings)
        seconds = time.perf_counter() - started
        session = open_session(result.template.model, weights=result.weights)
        (name,) = (str(value.name) for value in result.template.graph.inputs)
        parts = [next(iter(session.run({name: part}).values())) for part in np.array_split(held, 20)]
        accuracy = 100 * np.mean([_accuracy(np.concatenate(parts), labels, group, vectors) for group in groups])
        done = f"{result.report.method}, {result.report.repair}"
        if result.report.scale is not None:
            done = f"{result.report.method}, scale {result.report.scale:g}"
            done += f", depth {depth:g}" if (depth := result.report.method_options["depth"]) else ""
        print(_row((way, f"{accuracy:.2f}", f"{seconds:.0f}", done), markdown=arguments.markdown), flush=True)


def _settings(way: str) -> dict[str, Any]:
    method, *given = way.split()
    if method in TASK_VECTORS:
        refine = next((each[1:] for each in given if each.startswith("+")), None)
        found: dict[str, Any] = {} if refine is None else {"refine": refine}
        found |= {name: _value(text) for name, text in (each.split("=") for each in given if "=" in each)}
        others = found.pop("others", None)
        rules = {} if others is None else {"parameters": tuple(ParameterRule(name, float(others)) for name in OTHERS)}
        return {"method": method, **found, **rules}
    method, *more = way.split(" +")
    if method in ("default", "best"):
        return {"effort": "best"} if method == "best" else {}
    answer = {"answer": "ensemble"} if "answer" in more else {}
    return {"method": method, "refine": "ls" if "ls" in more else "none", **answer}


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _accuracy(found: NDArray[Any], labels: NDArray[Any], group: NDArray[Any], vectors: NDArray[Any]) -> float:
    own = np.isin(labels, group)
    return float((group[(found[own] @ vectors[group].T).argmax(axis=1)] == labels[own]).mean())


def images_of(data: Any, split: str, chosen: NDArray[Any]) -> NDArray[np.float32]:
    """Some of the images, as the networks take them [n, 3, 32, 32]."""
    blob, ends = data[f"jpeg_{split}"], data[f"ends_{split}"]
    starts = np.concatenate([[0], ends[:-1]])
    pixels = [np.asarray(Image.open(io.BytesIO(blob[starts[each] : ends[each]].tobytes()))) for each in chosen]
    return np.ascontiguousarray(((np.stack(pixels) - MEAN) / DEVIATION).transpose(0, 3, 1, 2), np.float32)


def _row(cells: tuple[str, ...], *, markdown: bool) -> str:
    return f"| {' | '.join(cells)} |" if markdown else f"{cells[0]:28s} {cells[1]:>10s} {cells[2]:>8s}  {cells[3]}"


if __name__ == "__main__":
    main()
