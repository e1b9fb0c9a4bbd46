"""The law that merging a model with itself, or with a permuted copy, gives it back: how many cases hold, and which not.

    PYTHONPATH=. nice python tools/law.py [--results FILE] [NAME ...]

Measures the models of tests/api/law_models.py whose names contain a NAME (all, where none is given), by every setting
of tests/api/law.py, and appends a line for each to the results, small ones first: a second call goes on where the first
was ended. Then prints the counts, and the exceptions by name, with why. A model takes some ten seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tests.api.law import EXCEPTIONS, broken, moved
from tests.api.law_models import SHARED, cases


def main() -> None:
    """Measure what has not been measured, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--results", type=Path, default=Path("law.jsonl"))
    arguments = parser.parse_args()
    known = _read(arguments.results)
    found: list[dict[str, Any]] = []
    for case in cases(SHARED):
        if arguments.names and not any(name in case.name for name in arguments.names):
            continue
        if case.name not in known:
            started = time.perf_counter()
            model = case.load()
            row = {"name": case.name, **{str(permuted): moved(model, permuted=permuted) for permuted in (False, True)}}
            known[case.name] = {**row, "seconds": round(time.perf_counter() - started, 1)}
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[case.name]) + "\n")
        found.append(known[case.name])
    _report(found)


def _read(results: Path) -> dict[str, dict[str, Any]]:
    rows = map(json.loads, results.read_text(encoding="utf-8").splitlines() if results.exists() else ())
    return {row["name"]: row for row in rows}


def _report(found: list[dict[str, Any]]) -> None:
    every = failed = 0
    seen: set[tuple[str, str]] = set()
    for row in found:
        for permuted in ("False", "True"):
            every += len(row[permuted])
            for setting, error in broken(row[permuted]).items():
                failed += 1
                seen.add((row["name"], setting))
                how = "with a permuted copy" if permuted == "True" else "with itself"
                told = error if isinstance(error, str) else f"{error:.1e}"
                print(
                    f"{row['name']}, {setting}, {how}: {told} ({EXCEPTIONS.get((row['name'], setting), 'NOT KNOWN')})"
                )
    names = {row["name"] for row in found}
    for name, setting in sorted(key for key in EXCEPTIONS if key[0] in names and key not in seen):
        print(f"{name}, {setting}: holds now; take it out of EXCEPTIONS")
    print(f"{len(found)} models, {every} cases: {every - failed} held, {failed} did not")


if __name__ == "__main__":
    main()
