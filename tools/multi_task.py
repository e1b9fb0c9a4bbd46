#!/usr/bin/env python3
"""The tables of multi-task merging as the MuDSC paper has them: MNIST, CIFAR-10 5+5 and CIFAR-100 50+50.

    PYTHONPATH=. python tools/multi_task.py [FOLDER] [--torch PYTHON] [--pair NAME ...] [--way WAY ...] [--test 10000]

Two networks from initialisations of their own, each trained on its task; all answer with an embedding, which is
compared with text vectors of the class names. mnist-mlp (prime or not, odd or even) and cifar5-resnet20 (five classes
each) are those of shared/pairs. Of cifar50-resnet20, whose halves are drawn at random, the two ResNet-20 are trained by
tools/train_halves.py, by a Python with torch. Each pair is merged on 5,000 unlabelled training images and scored on the
test images, in percent; nothing is chosen by these. "default" is what `onnxmerge run` does by itself, "+ls" is
`--refine ls`; *reference* is the best over balance factors of MuDSC's own code, where reference.json has it. Networks
and scores are kept in FOLDER, so that a second call trains nothing, and goes on where the first was ended. Needs
onnxmerge, Pillow and the folder of real material beside the checkout (or in ONNXMERGE_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge import merge
from tools.compare_reference import METHODS as REFERENCE
from tools.pairs import Accuracies, Pair, open_pair
from tools.same_base import SHARED, images_of

CHECKOUT = Path(__file__).resolve().parents[1]
HALVES = "cifar50-resnet20"
PAIRS = ("mnist-mlp", "cifar5-resnet20", HALVES)
ENSEMBLES = ("ensemble", "ensemble as --answer forms it")
WAYS = (
    "average",
    "rebasin",
    "act-align",
    "mudsc-align",
    "zipit",
    "weight-zip",
    "mudsc-zip",
    "act-align +ls",
    "default",
)
SEEDS = (11, 12)

Row = Mapping[str, Any]


def main() -> None:
    """Train what is missing, merge what has not been merged, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()) / "multi-task")
    parser.add_argument("--torch", type=Path, help="a Python that has torch, for networks that are not there yet")
    parser.add_argument("--pair", nargs="*", default=PAIRS, choices=PAIRS)
    parser.add_argument("--way", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--test", type=int, default=10000, help="test images")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"{arguments.test}.jsonl"
    known = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    for name in arguments.pair:
        home = None
        if name == HALVES:
            home = folder / name
            trained(home, arguments.torch)
        missing = [way for way in (*ENSEMBLES[:1], *arguments.way) if (name, way) not in done(known)]
        for row in measured(some_tested(open_pair(name, home), arguments.test), missing) if missing else ():
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name} {row['way']}: {row['joint']} {row['average']}", file=sys.stderr, flush=True)
            known.append(row)
    shown = [row for row in known if row["pair"] in arguments.pair and row["way"] in (*arguments.way, *ENSEMBLES)]
    print("\n\n".join(table(name, [row for row in shown if row["pair"] == name]) for name in arguments.pair))


def some_tested(pair: Pair, test: int) -> Pair:
    """The pair with so many of its test images, drawn at random: files have them by class."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(pair.test["labels"]))[:test])
    return replace(pair, test={name: array[chosen] for name, array in pair.test.items()})


def done(known: Sequence[Row]) -> set[tuple[str, str]]:
    """Pairs and ways of rows."""
    return {(row["pair"], row["way"]) for row in known}


def trained(folder: Path, torch: Path | None) -> None:
    """Train the networks that are not in the folder yet. Ends the program where that takes a Python with torch."""
    folder.mkdir(exist_ok=True)
    told, images = folder / "pair.json", folder / "images.npz"
    missing = [
        (place, folder / name) for place, name in enumerate(("a.onnx", "b.onnx")) if not (folder / name).exists()
    ]
    if not missing:
        return
    if torch is None:
        sys.exit(f"{missing[0][1]} is not there yet; say with --torch which Python has torch to train it")
    data = np.load(SHARED / "data" / "cifar100.npz")
    told.write_text(json.dumps(halves(np.load(SHARED / "suite-c100" / "vectors.npz")["fine"])) + "\n", "utf-8")
    labels = data["y_train"].astype(np.int64)
    np.savez(images, images=images_of(data, "train", np.arange(len(labels))), labels=labels)
    for place, target in missing:
        files = [str(each.absolute()) for each in (images, told)]
        command = [str(torch), "-m", "tools.train_halves", *files, str(place), str(target.absolute())]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        seed = ["--seed", str(SEEDS[place])]
        subprocess.run([*command, *seed], check=True, env=environment, stdout=sys.stderr)  # noqa: S603 - our own tool
    images.unlink()


def halves(vectors: Any) -> dict[str, Any]:
    """The classes of CIFAR-100 in two halves at random, as a task file; ``vectors`` [100, outputs] are of the names."""
    every = np.split(np.random.default_rng(0).permutation(len(vectors)), 2)
    tasks = [
        {
            "name": name,
            "classes": own.tolist(),
            "vectors": [[round(float(x), 6) for x in vectors[each]] for each in own],
        }
        for name, own in zip(("first", "second"), map(np.sort, every), strict=True)
    ]
    models = [{"file": file, "task": place} for place, file in enumerate(("a.onnx", "b.onnx"))]
    found = {"name": HALVES, "data": "cifar100", "kind": "classes", "input": "images", "output": "embedding"}
    return {**found, "models": models, "tasks": tasks}


def measured(pair: Pair, ways: Sequence[str]) -> Iterator[Row]:
    """A row for each of some ways to merge a pair, and for its ensembles where these are among them."""
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            if way in ENSEMBLES:
                for name, scores in zip(ENSEMBLES, pair.ensembles(), strict=True):
                    yield row(pair, name, scores)
                continue
            method, _, refinement = way.partition(" +")
            how: dict[str, Any] = {} if method == "default" else {"method": method}
            how |= {"refine": refinement} if refinement else {}
            started, made = time.process_time(), Path(folder, "made.onnx")
            merge(pair.models, calibration=pair.calibration, **how).save(made)
            seconds = time.process_time() - started
            yield {**row(pair, way, pair.scored([made])[0]), "seconds": seconds}


def row(pair: Pair, way: str, scores: Accuracies) -> Row:
    """What was measured."""
    return {"pair": pair.name, "way": way, "joint": scores[0], "average": scores[1]}


def table(name: str, rows: Sequence[Row]) -> str:
    """The rows of a pair in Markdown, with what the reference reached, and how much of the ensemble that is."""
    reference = SHARED / "pairs" / name / "reference.json"
    known = json.loads(reference.read_text("utf-8")) if reference.exists() else {}
    joint = any(each["joint"] is not None for each in rows)
    most = next((each["joint" if joint else "average"] for each in rows if each["way"] == ENSEMBLES[0]), None)
    measures = ("joint", "average") if joint else ("average",)
    heads = [name, *measures, "of the ensemble", *((f"reference {each}" for each in measures) if known else ())]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    order = [*WAYS, *ENSEMBLES]
    for each in sorted(rows, key=lambda own: order.index(own["way"])):
        cells = [each["way"], *(f"{each[measure]:.2f}" for measure in measures)]
        cells.append("" if not most else f"{each[measures[0]] / most:.1%}")
        theirs = known.get("ensemble" if each["way"] == ENSEMBLES[0] else REFERENCE.get(each["way"]) or "")
        if known:
            cells += [
                "" if theirs is None else f"{100 * theirs[key]:.2f}" for key in ("joint", "avg")[-len(measures) :]
            ]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
