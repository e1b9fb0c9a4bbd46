"""docs/checking.md names every gate, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from onnxmerge.checking.registry import FAMILIES, GATES


def test_every_gate_is_described(checkout: Path) -> None:
    table = (checkout / "docs" / "checking.md").read_text().split("## Gates")[1].split("## Reports")[0]
    named = re.findall(rf"`((?:{'|'.join(FAMILIES)})\.[a-z0-9-]+)`", table)
    assert sorted(named) == sorted(gate.id for gate in GATES)
