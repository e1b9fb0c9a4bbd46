"""The commands of docs/landscape.md are what happens, and give the pictures that it speaks of."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.command_line import Cli


def test_the_commands_of_the_page(checkout: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "onnxmerge").symlink_to(checkout / "onnxmerge")
    (block,) = re.findall(
        r"```sh\n(.*?)```", (checkout / "docs" / "landscape.md").read_text(encoding="utf-8"), re.DOTALL
    )
    merge, look = (line.split()[1:] for line in block.splitlines())
    assert cli(*merge, "--samples", 128, "-q").returncode == 0
    done = cli(*look, "--points", 3, "--samples", 64, "-o", "around.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, *told = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ networks x \d+ samples", first)
    rows = {line.split()[0]: line.split()[1:] for line in told}
    for task in ("0-4", "5-9", "overlap"):
        *_, before, after = map(float, rows[task])
        assert before > after, "matching lowers the barrier"
    own = float(rows["0-4"][0]), float(rows["5-9"][1])
    assert max(own) < 0.1 < min(float(rows["0-4"][1]), float(rows["5-9"][0]))
    picture = ET.fromstring((tmp_path / "around.svg").read_text(encoding="utf-8"))  # noqa: S314 - our own
    names = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert names.count("merged.onnx") == 3, "the merge is marked in each of the maps"
    table = list(csv.DictReader((tmp_path / "around.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["network"] for row in table] == ["first", "second", "merged"] + ["before"] * 3 + ["after"] * 3 + [
        "plane"
    ] * 9
