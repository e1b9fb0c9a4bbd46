"""What cannot fit is refused before anything is measured; less memory costs time, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import memory_limit, merge
from onnxmerge.errors import ResourceError
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.model import exposed, stretches
from onnxmerge.pipeline import room
from tests.command_line import Cli
from tests.graphs import build, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
X = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)


def model(seed: int, units: int = 8) -> onnx.ModelProto:
    return build(GRAPH, normal(w=(6, units), v=(units, 3), seed=seed))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for 300 kB."""
    monkeypatch.setattr(room, "memory_budget", lambda: 300_000)


def stages(into: list[str]) -> Any:
    class Stage:
        def __init__(self, name: str) -> None:
            into.append(name)

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    return Stage


@pytest.mark.parametrize(
    ("units", "settings", "told"),
    [
        (200, {"method": "rebasin"}, r"matching the 200 units of group p0 takes 640 KB of memory, and 300 KB may be"),
        (200, {"method": "auto", "calibration": {"x": X}}, "matching the 200 units"),
        (200, {"method": "weight-zip"}, "or take --method average, which matches nothing; or allow more with"),
        (20_000, {"method": "average"}, r"merging initializer 'w' of shape \[6, 20000\] takes 480 KB of memory"),
        (20_000, {"method": "soup"}, "merging initializer 'w'.*; allow more with --max-memory"),
    ],
)
@pytest.mark.usefixtures("little")
def test_what_cannot_fit_is_refused_before_anything_is_measured(
    units: int, settings: dict[str, Any], told: str
) -> None:
    entered = list[str]()
    with pytest.raises(ResourceError, match=told):
        merge([model(1, units), model(2, units)], **settings, stages=stages(entered))
    assert entered == ["read", "type"]


@pytest.mark.parametrize(
    "settings",
    [{"method": "average"}, {"method": "soup"}, {"method": "rebasin", "groups": (GroupRule("p0", pin=True),)}],
)
@pytest.mark.usefixtures("little")
def test_what_is_not_matched_needs_no_room(settings: dict[str, Any]) -> None:
    merge([model(1, 200), model(2, 200)], **settings)


@pytest.fixture
def by_stretches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let small networks be run as large ones."""
    monkeypatch.setattr(stretches, "LARGE", 0)
    monkeypatch.setattr(exposed, "is_large", lambda _model: True)
    return iter(())


@pytest.mark.usefixtures("by_stretches")
@pytest.mark.parametrize(
    "settings",
    [{"method": "rebasin"}, {"method": "mudsc-align", "calibration": {"x": X}}, {"calibration": {"x": X}}],
)
def test_a_budget_changes_no_byte(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [model(1), model(2)]
    plenty = merge(models, **settings).save(tmp_path / "plenty.onnx").read_bytes()
    with memory_limit("1GB"):
        assert merge(models, **settings).save(tmp_path / "less.onnx").read_bytes() == plenty
    for module in ("model.stretches", "calibration.sources", "pipeline.matching"):
        monkeypatch.setattr(f"onnxmerge.{module}.room_for", lambda _most, _part: 0)
    assert merge(models, **settings).save(tmp_path / "none.onnx").read_bytes() == plenty


def test_a_budget_that_is_too_small_is_one_line(cli: Cli, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        onnx.save(model(seed, 4500), tmp_path / f"{name}.onnx")
    ended = cli("run", "a.onnx", "b.onnx", "--method", "rebasin", "--max-memory", "300MB", "-o", "m.onnx")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert "a.onnx: matching the 4500 units of group p0 takes 324 MB of memory" in ended.stderr
    assert not (tmp_path / "m.onnx").exists()
