"""The landscape around a merge as a picture of pixels, for papers and slides, drawn by matplotlib where it is there."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmerge.api.landscape import Landscape
from onnxmerge.errors import UsageError
from onnxmerge.report.landscape import BANDS, HIGHEST, bands_of
from onnxmerge.text import clamped

if TYPE_CHECKING:
    from onnxmerge.pipeline.landscape import LossSurface

_SIDE, _DOTS = 4.0, 150
"""Of a panel in inches, and dots an inch."""


def require_matplotlib() -> None:
    """Raise UsageError where pictures of pixels cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("a .png needs matplotlib: pip install 'onnxmerge[plot]', or write a .svg")


def landscape_png(found: Landscape) -> bytes:
    """The plane for each task and for their overlap, and the line between the parents.

    The same bytes for the same losses, but for the version of matplotlib. UsageError where that is not installed.
    """
    require_matplotlib()
    with _nothing_kept():
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            return _drawn(found)


def _drawn(found: Landscape) -> bytes:
    from matplotlib.figure import Figure

    planes = [surface for surface in found.surfaces if surface.plane.size]
    count = len(planes) + 1
    across = 2 if count in {2, 4} else min(3, count)
    down = -(-count // across)
    figure = Figure(figsize=(across * _SIDE, down * _SIDE), dpi=_DOTS, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    shown: Any = None
    for axes, surface in zip(panels, planes, strict=False):
        shown = _plane(axes, found, surface)
    if shown is not None:
        bar = figure.colorbar(shown, ax=panels.tolist(), shrink=0.8)
        edges = bands_of(found)
        bar.set_ticks(np.log(edges).tolist(), labels=[f"{edge:.2g}" for edge in edges])
        bar.set_label("loss, as a share of what one answer to all samples loses")
    _line(panels[count - 1], found)
    for axes in panels[count:]:
        axes.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Let matplotlib keep what it knows of fonts in a folder that goes: no command writes into the user's home."""
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def _plane(axes: Any, found: Landscape, surface: LossSurface) -> Any:
    edges = bands_of(found)
    shares = np.log(np.clip(surface.shares(surface.plane), edges[0], edges[-1]))  # between points as the .svg has it
    shown = axes.contourf(found.xs, found.ys, shares, levels=np.log(edges), colors=BANDS)
    x, y = found.plane.merged
    for at, name, marker in zip(((0.0, 0.0), (1.0, 0.0), (x, y)), found.models, ("o", "s", "D"), strict=True):
        axes.plot(*at, marker, color="white", markeredgecolor="black", markersize=8)
        label = axes.annotate(_plain(name, 18), at, (0, 9), textcoords="offset points", ha="center", color="white")
        label.set_bbox({"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5})
    axes.set_title(_plain(surface.name, 34))
    axes.set_xlabel("x, first to second")
    axes.set_ylabel("y")
    return shown


def _line(axes: Any, found: Landscape) -> None:
    for index, surface in enumerate(found.surfaces):
        colour = f"C{index}"
        axes.plot(found.ts, surface.shares(surface.before), "--", color=colour)
        axes.plot(found.ts, surface.shares(surface.after), "-", color=colour, label=" " + _plain(surface.name, 24))
    axes.set_ylim(0, min(axes.get_ylim()[1], HIGHEST))
    axes.set_title("Straight line between the parents")
    axes.set_xlabel("first to second; dashed: as they are, solid: matched")
    axes.legend()


def _plain(name: str, longest: int) -> str:
    """A name as text: a dollar sign would begin a formula."""
    return clamped(name, longest).replace("$", r"\$")
