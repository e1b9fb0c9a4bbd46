"""Build the documentation site: `python tools/website/build.py [--out DIR]` (needs `pip install -e '.[docs]'`).

Any warning fails it: a dead link or anchor, a page without a place in the navigation, a docstring that cannot be read,
and anything that a page would load from a network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # for tools, from wherever this is called

from tools.website.loads import elsewhere, loaded, styled  # noqa: E402 - found by the line above


def main() -> int:
    """The exit code: 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "site", help="folder of the site")
    out = parser.parse_args().out.resolve()
    try:
        build(load_config(str(HERE / "mkdocs.yml"), site_dir=str(out), strict=True))
    except Abort as wrong:
        print(wrong, file=sys.stderr)
        return 1
    loads = [f"{path}: {each}" for path in sorted(out.rglob("*.html")) for each in loaded(path.read_text("utf-8"))]
    sheets = {path: elsewhere(styled(path.read_text("utf-8"))) for path in sorted(out.rglob("*.css"))}
    loads += [f"{path}: {each}" for path, found in sheets.items() for each in found]
    for each in loads:
        print(f"loaded from a network: {each}", file=sys.stderr)
    print(f"wrote {out}")
    return 1 if loads else 0


if __name__ == "__main__":
    sys.exit(main())
