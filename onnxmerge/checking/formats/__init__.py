"""Checks as text that other programs read: one function a format, from reports to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxmerge.checking.formats.github import github
from onnxmerge.checking.formats.json_text import json_text
from onnxmerge.checking.formats.junit import junit
from onnxmerge.checking.formats.markdown import markdown
from onnxmerge.checking.formats.sarif import sarif_text
from onnxmerge.checking.report import CheckReport

FORMATS: Mapping[str, Callable[[Sequence[CheckReport]], str]] = {
    "json": json_text,
    "junit": junit,
    "sarif": sarif_text,
    "github": github,
    "markdown": markdown,
}
"""By the name that ``--format`` and ``--report`` know them under."""
