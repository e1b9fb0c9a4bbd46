#!/usr/bin/env python3
"""Find the smallest merge of a pair that is near enough to its ensemble, and try widths by hand beside it.

    PYTHONPATH=. nice python tools/widths.py [--pair NAME ...] [--by-hand W ...] [--within POINTS] [--samples N]
        [--markdown] [--append FILE]

Pairs are the example digits and those of the folder of real material (beside the checkout, or in ONNXMERGE_SHARED),
each merged in the way that the default prefers for networks trained apart (WAY). First comes what `--width auto` tries,
all of it once that is done, then all groups at the widths by hand, one by one: same data, same statistics, same
held-out samples, same judge. A merge takes from seconds to minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from onnxmerge.pipeline.beginning import MergeInputs, prepare_merge, read_data
from onnxmerge.pipeline.job import silent
from onnxmerge.pipeline.meanings import known_vectors, outputs_of
from onnxmerge.pipeline.options import MergeOptions, merge_options
from onnxmerge.pipeline.selection.widening import Climb, WidthsCandidate, climb_on
from tools.same_base import SHARED

CHECKOUT = Path(__file__).resolve().parents[1]
WAY = {"method": "zipit", "zip_unit": "member", "refine": "ls", "answer": "ensemble"}
PAIRS = ("digits", "mnist-mlp", "cifar5-resnet20", "cifar5-resnet20gn", "cifar5-vit")
HEADS = ("pair", "widths", "parameters", "of a parent", "agreement", "")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two networks, unlabelled data, and what says what their outputs mean."""

    models: tuple[Path, Path]
    data: Path
    tasks: Path | None


def main() -> None:
    """Print a row for each merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="*", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--by-hand", nargs="*", default=["1", "1.25", "1.5", "1.75", "2"])
    parser.add_argument("--within", type=float, default=MergeOptions().within)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--append", type=Path, metavar="FILE", help="write the rows to a file too, one by one")
    arguments = parser.parse_args()

    def show(cells: tuple[str, ...]) -> None:
        line = f"| {' | '.join(cells)} |" if arguments.markdown else "  ".join(f"{cell:>14s}" for cell in cells)
        print(line, flush=True)
        if arguments.append is not None:
            with arguments.append.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    show(HEADS)
    if arguments.markdown:
        show(("---", "---", "--:", "--:", "--:", "---"))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.pair:
            climb = _climb(samples_of(name, arguments.samples, Path(folder)), arguments)
            for row in _rows(climb, arguments.by_hand):
                show((name, *row))


def samples_of(name: str, samples: int, folder: Path) -> Pair:
    """The pair of this name with so much of its data (the example digits have what they come with)."""
    if name == "digits":
        own = CHECKOUT / "onnxmerge/examples/digits"
        return Pair((own / "a.onnx", own / "b.onnx"), own / "calib.npz", own / "task.json")
    own, data = SHARED / "pairs" / name, folder / f"{name}.npz"
    command = [sys.executable, *map(str, (SHARED / "tools" / "calib.py", own, data, "--samples", samples))]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the shared tool
    return Pair((own / "a.onnx", own / "b.onnx"), data, None)


def _climb(pair: Pair, arguments: argparse.Namespace) -> Climb:
    """What `--width auto` finds widths by."""
    how = merge_options({**WAY, "width": "auto", "within": arguments.within}).settled()
    begun = read_data(prepare_merge(pair.models, MergeInputs(pair.data, None, {}, {}), how, silent, nullcontext))
    known = known_vectors(pair.tasks, None, pair.models, begun.parents, how, labelled=False)
    job = replace(begun.job, outputs=outputs_of(begun.job, known))
    return climb_on(job, how, None, None)


def _rows(climb: Climb, by_hand: list[str]) -> Iterator[tuple[str, ...]]:
    """The widths that are tried, and that which is chosen; then those by hand."""
    found = climb.report()
    plain = found.candidates[0].parameters

    def row(each: WidthsCandidate, said: str) -> tuple[str, ...]:
        size = f"{each.parameters / plain:.2f}x"
        return each.widths.replace(",", " "), f"{each.parameters:,}", size, f"{each.agreement:.4f}", said

    if found.ensemble is not None:
        yield "the ensemble", "", "", f"{found.ensemble:.4f}", f"at least {found.least:.4f} wanted"
    for index, each in enumerate(found.candidates):
        yield row(each, "auto, chosen" if index == found.chosen else "auto")
    known = {each.widths: each for each in found.candidates}
    for widths in by_hand:
        own = known.get(widths) or climb.judged(widths)
        yield row(own, "by hand" + (", enough" if own.score >= found.least else ""))


if __name__ == "__main__":
    main()
