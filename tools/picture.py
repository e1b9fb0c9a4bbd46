#!/usr/bin/env python3
"""Draw the picture of the README from the first table of docs/results.md: docs/results.svg.

    python tools/picture.py

It is drawn for light and dark pages alike; a test holds it against the table.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHOWN = ("plain average", "MuDSC's code, best", "default", "ensemble")
NAMES = {"cifar5-resnet20": "ResNet-20", "cifar5-resnet20gn": "ResNet-20, GroupNorm", "cifar5-vit": "ViT, 4 blocks"}
FILLS = ("#9aa4b2", "#7c8db5", "#0b8f6a", "none")
LABELS = (
    "plain average of the weights",
    "MuDSC's code, at its best",
    "onnxmerge, no options",
    "both networks, run apart",
)
STYLE = """text { font: 13px system-ui, sans-serif; fill: #1f2328 } .name { font-weight: 600 }
.apart { stroke: #57606a; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .apart { stroke: #9da7b3 } }"""
LEFT, WIDTH, ROW, BAR = 185, 490, 21, 15


def main() -> None:
    """Write the picture beside the table."""
    (DOCS / "results.svg").write_text(picture((DOCS / "results.md").read_text(encoding="utf-8")), encoding="utf-8")


def picture(results: str) -> str:
    """The SVG for the text of docs/results.md."""
    lines = re.findall(r"^\|.*\|$", results, re.MULTILINE)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    columns = [table[0].index(name) for name in SHOWN]
    rows = {row[0]: [float(row[column]) for column in columns] for row in table if row[0] in NAMES and len(row) == 7}
    parts, y = [], 26
    for pair, name in NAMES.items():
        parts.append(f'<text class="name" x="0" y="{y + 2 * ROW - 4}">{escape(name)}</text>')
        for value, fill in zip(rows[pair], FILLS, strict=True):
            long = value / 100 * WIDTH
            apart = ' class="apart"' if fill == "none" else ""
            parts.append(f'<rect{apart} x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR}" rx="2" fill="{fill}"/>')
            parts.append(f'<text x="{LEFT + long + 6:.1f}" y="{y + 12}">{value:.1f}</text>')
            y += ROW
        y += 12
    for index, (label, fill) in enumerate(zip(LABELS, FILLS, strict=True)):
        x, line = LEFT + 250 * (index % 2), y + 8 + ROW * (index // 2)
        apart = ' class="apart"' if fill == "none" else ""
        parts.append(f'<rect{apart} x="{x}" y="{line}" width="12" height="12" rx="2" fill="{fill}"/>')
        parts.append(f'<text x="{x + 18}" y="{line + 11}">{escape(label)}</text>')
    title = "Percent of ten classes right, for two networks that know five each, merged into one of their size"
    height = y + 2 * ROW + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>\n<text x="0" y="14">{escape(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
