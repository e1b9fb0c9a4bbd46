#!/usr/bin/env python3
"""What each step of the default merge of networks trained apart gives: left out, or another in its place.

    PYTHONPATH=. nice python tools/steps.py [--pair NAME ...] [--step NAME ...] [--samples N] [--markdown]
        [--append FILE]

Pairs are those of the folder of real material (beside the checkout, or in ONNXMERGE_SHARED), with class vectors. Each
merge is done on so many unlabelled calibration samples and judged by its agreement with the parents' ensemble on
others, in percent; *change* is the mean difference to the default on the same samples, with its standard error. The
test accuracy stands beside it and chooses nothing. A merge takes minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.answer.answer import agreement, reading_of
from onnxmerge.model.write import save_network
from onnxmerge.pipeline.beginning import MergeInputs, prepare_merge, read_data
from onnxmerge.pipeline.job import silent
from onnxmerge.pipeline.matching import measured
from onnxmerge.pipeline.meanings import known_vectors, outputs_of
from onnxmerge.pipeline.options import MergeOptions, merge_options
from onnxmerge.pipeline.selection.held_out import held_out
from onnxmerge.pipeline.selection.trials import Trials
from onnxmerge.types import Floats
from tools.pairs import SAMPLES, Pair, open_pair, row_printer
from tools.widths import PAIRS, WAY, samples_of

DEFAULT = "default"
STEPS: dict[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "positions by sensitivity": {"sensitivity": 0.7},
    "positions by sensitivity alone": {"sensitivity": 1.0},
    "units are means": {"zip_unit": "mean"},
    "matched, no zip": {"method": "act-align", "zip_unit": None},
    "mean of the last layers": {"answer": "mean"},
    "no least squares": {"refine": "none", "zip_unit": "mean"},
    "FeatCal, a = 0.25": {"method": "act-align", "zip_unit": None, "refine": "featcal"},
    "FeatCal, a = 0.5": {"method": "act-align", "zip_unit": None, "refine": "featcal", "own_input": 0.5},
    "FeatCal, a = 1, l = 0.05": {
        "method": "act-align",
        "zip_unit": None,
        "refine": "featcal",
        "own_input": 1.0,
        "pull": 0.05,
    },
}
"""What differs from the default (None: the option is left out)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all merges of a pair share."""

    pair: Pair
    trials: Trials
    folder: Path

    def merged(self, how: MergeOptions) -> tuple[Floats, float]:
        """The agreement of a merge on each held-out sample, and its joint test accuracy."""
        trials = self.trials
        weights, _ = trials.merged(how)
        (layer, meaning), (found,) = trials.together[0], trials.answers(weights)
        job, path = trials.job, self.folder / "merged.onnx"
        reading = reading_of(meaning, found.parents, job.outputs.vectors_of(meaning), job.options.seed)
        save_network(job.network.model, weights, path, {})
        return agreement(layer, reading, job.shares)(found.merged, found.parents), self.pair.accuracy(path)


def main() -> None:
    """Print a row for each merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="*", default=list(PAIRS[2:]), choices=PAIRS[2:])
    parser.add_argument("--step", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--append", type=Path, metavar="FILE", help="write the rows to a file too, one by one")
    arguments = parser.parse_args()

    show = row_printer(20, markdown=arguments.markdown, file=arguments.append)
    show("pair", "step", "agreement", "change", "joint")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.pair:
            for row in _rows(_bench(name, arguments.samples, Path(folder)), arguments.step):
                show(name, *row)


def _options(step: str) -> MergeOptions:
    given = {name: value for name, value in {**WAY, **STEPS[step]}.items() if value is not None}
    return merge_options(given).settled()


def _bench(name: str, samples: int, folder: Path) -> Bench:
    pair, data, how = open_pair(name), samples_of(name, SAMPLES, folder).data, _options(DEFAULT)
    begun = read_data(prepare_merge(pair.models, MergeInputs(data, None, {}, {}), how, silent, nullcontext))
    known = known_vectors(pair.tasks, None, pair.models, begun.parents, how, labelled=False)
    job = replace(begun.job, outputs=outputs_of(begun.job, known))
    if job.source is None:
        raise SystemExit(f"{name}: no calibration data")
    split = held_out(job.source, job.prepared.models)
    job = job.on(Spread(split.fit, samples))
    return Bench(pair, Trials(job, split.held, measured(job, [_options(step) for step in STEPS])), folder)


def _rows(bench: Bench, steps: list[str]) -> Iterator[tuple[str, ...]]:
    """The default first, then what differs from it."""
    plain: Floats | None = None
    for step in dict.fromkeys((DEFAULT, *steps)):
        agreed, joint = bench.merged(_options(step))
        plain = agreed if plain is None else plain
        change = agreed - plain
        error = change.std() / np.sqrt(len(change))
        told = "" if step == DEFAULT else f"{100 * change.mean():+.2f} ± {100 * error:.2f}"
        yield step, f"{100 * agreed.mean():.2f}", told, f"{joint:.2f}"


if __name__ == "__main__":
    main()
