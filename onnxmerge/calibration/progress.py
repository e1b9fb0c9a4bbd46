"""What is told of work that takes a while; ``report.progress`` shows it."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, "int | None"], None]
"""Called with the number of steps done and of all steps (None: unknown)."""
