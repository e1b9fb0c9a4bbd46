#!/usr/bin/env python3
"""Hold reports to axe-core in a real browser, at 1440 and 390 pixels, in light and in dark.

    python tools/accessibility.py PAGE.html ... [--pictures FOLDER] [--browser CHROMIUM]

Exits with 1 where a page has a violation that axe-core calls serious or critical, or is wider than the screen. Needs
Node, npm, and Chromium; axe-core and playwright-core come from npm, into the folder that tools/runtimes.py installs to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tools.environments, from wherever this is called

from tools.environments import browser, cache, npm

RUNNER = Path(__file__).with_name("runners") / "axe.mjs"
GRAVE = frozenset({"serious", "critical"})


def main() -> None:
    """Look at each page, and print a line for each look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE.html")
    parser.add_argument("--pictures", type=Path, help="where to leave a picture of each look")
    parser.add_argument("--browser", default=None, help="a Chromium; by default $ONNXMERGE_BROWSER or that in the PATH")
    options = parser.parse_args()
    grave = False
    with tempfile.TemporaryDirectory() as temporary:
        pictures = options.pictures or Path(temporary)
        pictures.mkdir(exist_ok=True)
        modules = npm(("axe-core", "playwright-core"), cache() / "axe")
        command = [
            "node",
            str(RUNNER),
            options.browser or browser(),
            str(modules),
            str(pictures),
            *map(str, options.pages),
        ]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own script
    for look in map(json.loads, found.stdout.splitlines()):
        told = [f"{each['impact']} {each['id']}: {each['help']}" for each in look["violations"]]
        told += [f"{look['overflow']} pixels wider than the screen"] if look["overflow"] else []
        grave |= bool(look["overflow"]) or any(each["impact"] in GRAVE for each in look["violations"])
        where = f"{look['page']} {look['width']} {look['colorScheme']}, loaded in {look['loaded'] / 1000:.1f} s"
        print(f"{where}: {'; '.join(told) or 'nothing found'}")
    sys.exit(grave)


if __name__ == "__main__":
    main()
