"""The frame, the styles and the script of pictures and pages, as they stand in the package."""

from __future__ import annotations

from importlib.resources import files

_HERE = files(__package__)

FRAME = _HERE.joinpath("page.html").read_text(encoding="utf-8")
PAGE = _HERE.joinpath("page.css").read_text(encoding="utf-8")
PICTURE = _HERE.joinpath("picture.css").read_text(encoding="utf-8")
SCRIPT = _HERE.joinpath("page.js").read_text(encoding="utf-8")
