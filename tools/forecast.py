#!/usr/bin/env python3
"""Forecast merges of pairs of networks, make them, and fit the law of onnxmerge/pipeline/forecasting.py on them.

    PYTHONPATH=. nice python tools/forecast.py [FOLDER] [--pair NAME ...] [--torch PYTHON] [--markdown]

The pairs are those of the folder of real material (beside the checkout, or in ONNXMERGE_SHARED), fine-tunes of its
suite two by two, the example digits, and small networks that are trained here: on split MNIST, of several widths
(tools/split_mnist.py: width and concentration are in the names), and, with a Python that has torch and scikit-learn,
digits of other seeds (tools/train_digits.py). Each is forecast and merged as `onnxmerge plan` and `onnxmerge run` do by
default, small ones also into half their width, on 2,000 unlabelled samples; the outcome is the agreement with the
ensemble that the merge reports. What is found is appended to FOLDER/pairs.jsonl, so that a second call goes on where
the first was ended: a merge takes from ten seconds to minutes.

Then the one number of the law is fitted: the loss with the least mean square distance of forecasts and outcomes. The
table has for each merge the forecast by the loss that was fitted on all other pairs, at whatever width, and the seconds
of processor time that `onnxmerge plan` took. Last, what LAW says, and how far off it is to say that all arrives.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge import merge, plan
from onnxmerge.calibration.subset import Spread
from onnxmerge.evaluation.task import Task
from onnxmerge.pipeline.answering import answered_together, asked_parents
from onnxmerge.pipeline.beginning import MergeInputs, prepare_merge
from onnxmerge.pipeline.forecasting import ANSWERED, expected_agreement, group_forecasts, lost
from onnxmerge.pipeline.job import Job, silent
from onnxmerge.pipeline.meanings import known_vectors, outputs_of
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.types import Floats
from tools.same_base import SHARED, images_of
from tools.split_mnist import pixels, trained

CHECKOUT = Path(__file__).resolve().parents[1]
SAMPLES = 2000
SHARES = np.linspace(0, 1, 41)
LOSSES = np.linspace(0, 3, 601)
SPLITS = ((0, 0.5, 16), (0, 0.5, 32), (1, 0.1, 64), (0, 0.5, 256), (0, 10.0, 256))
"""Seed, concentration and width of networks for split MNIST."""

HALVED = (
    "digits",
    "digits 13",
    "digits 15",
    "split-mnist 16 0.5",
    "split-mnist 32 0.5",
    "split-mnist 64 0.1",
    "split-mnist 256 0.5",
)
"""Pairs that are also merged into half the width."""

HALF = ", half as wide"
"""Is added to their names."""

SEEDS = ((13, 14), (15, 16))
"""Of networks for digits."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two networks, unlabelled data, and what says what their outputs mean."""

    models: Sequence[Path]
    data: Any
    tasks: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measure what has not been measured, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()) / "forecast")
    parser.add_argument("--pair", nargs="*", default=[])
    parser.add_argument("--torch", type=Path)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = arguments.folder / "pairs.jsonl"
    known = _read(results)
    every = _pairs(arguments.folder, arguments.torch)
    for name in arguments.pair or every:
        made = every[name]
        if name not in known:
            known[name] = {"name": name, **_measured(made())}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[name]) + "\n")
            print(f"{name}: {known[name]['outcome']:.3f}", file=sys.stderr)
    _report(list(known.values()), markdown=arguments.markdown)


def _read(results: Path) -> dict[str, dict[str, Any]]:
    rows = map(json.loads, results.read_text(encoding="utf-8").splitlines() if results.exists() else ())
    return {row["name"]: row for row in rows}


def _pairs(folder: Path, torch: Path | None) -> dict[str, Callable[[], Pair]]:
    shared = ("mnist-mlp", "cifar5-vit", "cifar5-resnet20", "cifar5-resnet20gn")
    found: dict[str, Callable[[], Pair]] = {"digits": partial(_digits, CHECKOUT / "onnxmerge/examples/digits")}
    found |= {f"split-mnist {width} {c:g}": partial(_split, folder, seed, c, width) for seed, c, width in SPLITS}
    if torch is not None:
        found |= {f"digits {one}": partial(_other_digits, folder, torch, (one, two)) for one, two in SEEDS}
    found |= {name: partial(_shared, folder, name) for name in shared}
    found |= {f"{name}{HALF}": partial(_halved, found[name]) for name in HALVED if name in found}
    return found | {f"suite-c100 {one} {one + 1}": partial(_suite, one, one + 1) for one in (0, 2)}


def _digits(folder: Path) -> Pair:
    return Pair([folder / "a.onnx", folder / "b.onnx"], folder / "calib.npz", folder / "task.json")


def _other_digits(folder: Path, torch: Path, seeds: tuple[int, int]) -> Pair:
    own = folder / f"digits-{seeds[0]}"
    if not (own / "task.json").exists():
        tool = CHECKOUT / "tools" / "train_digits.py"
        subprocess.run([torch, tool, own, "--seeds", *map(str, seeds)], check=True)  # noqa: S603 - our own tool
    return _digits(own)


def _halved(made: Callable[[], Pair]) -> Pair:
    pair = made()
    return replace(pair, options={**pair.options, "width": 0.5})


def _split(folder: Path, seed: int, concentration: float, width: int) -> Pair:
    data = np.load(SHARED / "data" / "mnist.npz")
    images, labels = pixels(data["x_train"]), data["y_train"].astype(np.int64)
    own = folder / f"split-{concentration:g}-{seed}-{width}"
    files = trained(own, images, labels, 2, concentration, seed, hidden=width)
    return Pair(files, images[data["calib"][:SAMPLES]], options={"outputs": "logits"})


def _shared(folder: Path, name: str) -> Pair:
    pair, data = SHARED / "pairs" / name, folder / f"{name}.npz"
    if not data.exists():
        subprocess.run([sys.executable, SHARED / "tools" / "calib.py", pair, data], check=True)  # noqa: S603 - the shared tool
    return Pair([pair / "a.onnx", pair / "b.onnx"], data, pair / "pair.json")


def _suite(one: int, other: int) -> Pair:
    suite, data = SHARED / "suite-c100", np.load(SHARED / "data" / "cifar100.npz")
    tasks = [json.loads((suite / "suite.json").read_text(encoding="utf-8"))["tasks"][each] for each in (one, other)]
    names = [str(name) for name in data["coarse_names"]]
    groups = [np.flatnonzero(data["coarse_of"] == names.index(task["group"])) for task in tasks]
    mine = np.flatnonzero(np.isin(data["y_train"], np.concatenate(groups)))
    chosen = np.random.default_rng(0).permutation(mine)[:SAMPLES]
    vectors = np.load(suite / "vectors.npz")["fine"]
    asked = [Task(task["group"], vectors=vectors[group]) for task, group in zip(tasks, groups, strict=True)]
    return Pair([suite / task["file"] for task in tasks], images_of(data, "train", chosen), asked)


def _measured(pair: Pair) -> dict[str, Any]:
    """How much of a pair is lost, what it would agree on if any share arrived, and what its merge agrees on."""
    given: dict[str, Any] = {"calibration": pair.data, "tasks": pair.tasks, "samples": SAMPLES, **pair.options}
    started, begun = time.process_time(), time.perf_counter()
    plan(pair.models, forecast=True, **given)
    processor, seconds = time.process_time() - started, time.perf_counter() - begun
    job = _job(pair)
    together = answered_together(job)
    asked = asked_parents(job, [layer for layer, _ in together], Spread(job.source, ANSWERED)) if job.source else []
    curves = [
        expected_agreement(job, layer, meaning, own.parents, SHARES.tolist())
        for (layer, meaning), own in zip(together, asked, strict=True)
    ]
    report = merge(pair.models, **given).report
    return {
        "lost": lost(group_forecasts(job)[0]),
        "curve": np.mean(curves, axis=0).tolist(),
        "outcome": float(np.mean([each.after for each in report.answers if each.after is not None])),
        "processor": processor,
        "seconds": seconds,
    }


def _job(pair: Pair) -> Job:
    method = "zipit" if "width" in pair.options else "mudsc-align"
    how = MergeOptions(method=method, samples=SAMPLES, answer="ensemble", **pair.options).settled()
    begun = prepare_merge(pair.models, MergeInputs(pair.data, None, {}, {}), how, silent, nullcontext)
    known = known_vectors(pair.tasks, None, pair.models, begun.parents, how, labelled=False)
    return replace(begun.job, outputs=outputs_of(begun.job, known))


def _forecast(row: Mapping[str, Any], losses: Floats) -> Floats:
    """The agreement that each of some losses makes of a pair."""
    found: Floats = np.interp(np.exp(-losses * row["lost"]), SHARES, np.maximum.accumulate(row["curve"]))
    return found


def _fitted(rows: Sequence[Mapping[str, Any]]) -> float:
    """The loss with the least mean square distance of forecasts and outcomes."""
    far = np.mean([np.square(_forecast(row, LOSSES) - row["outcome"]) for row in rows], axis=0)
    return float(LOSSES[far.argmin()])


def _networks(row: Mapping[str, Any]) -> str:
    """What pair of networks a row is of, at whatever width they were merged."""
    return str(row["name"]).removesuffix(HALF)


def _report(rows: Sequence[Mapping[str, Any]], *, markdown: bool) -> None:
    heads = ("pair", "does not fit", "ensemble", "chance", "forecast", "outcome", "off by", "seconds")
    print(_line(heads, markdown=markdown))
    if markdown:
        print(f"|---|{'--:|' * (len(heads) - 1)}")
    errors = []
    for row in rows:
        others = [other for other in rows if _networks(other) != _networks(row)]
        loss = _fitted(others) if others else 0.0
        found = float(_forecast(row, np.array([loss]))[0])
        errors.append(abs(found - row["outcome"]))
        numbers = (row["lost"], row["curve"][-1], row["curve"][0], found, row["outcome"], errors[-1])
        cells = [row["name"], *(f"{each:.3f}" for each in numbers), f"{row['processor']:.1f}"]
        print(_line(cells, markdown=markdown))
    plain = [abs(row["curve"][-1] - row["outcome"]) for row in rows]
    told = (
        f"loss={_fitted(rows):.3f}, merges={len(rows)}, models=2, error={np.mean(errors):.3f}, worst={max(errors):.3f}"
    )
    print(f"\nLaw({told}); within 0.05: {sum(error <= 0.05 for error in errors)} of {len(rows)}")
    print(f"had nothing been lost: off by {np.mean(plain):.3f}, at most {max(plain):.3f}")


def _line(cells: Sequence[str], *, markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(cells)} |"
    return f"{cells[0]:34s}" + "".join(f"{cell:>13s}" for cell in cells[1:])


if __name__ == "__main__":
    main()
