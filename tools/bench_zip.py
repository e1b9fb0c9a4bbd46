#!/usr/bin/env python3
"""How long zipping the units of two models takes, by the number of units in each.

    python tools/bench_zip.py [UNITS ...]

The similarities are correlations of random features, of which the two models have half in common.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from onnxmerge.matching.zipping import zip_units

FEATURES = 512


def main() -> None:
    """Print a line for each number of units: the best of three runs."""
    for units in map(int, sys.argv[1:] or ("256", "1024", "4096")):
        rng = np.random.default_rng(0)
        common = np.tile(rng.standard_normal((units, FEATURES)), (2, 1))
        similarity = np.asarray(np.corrcoef(common + rng.standard_normal((2 * units, FEATURES))))
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            zip_units(similarity, 2, "units")
            seconds.append(time.perf_counter() - started)
        print(f"2 x {units:5d} units: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
