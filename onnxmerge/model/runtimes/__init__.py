"""The runtimes, by name: a module each, with a ``METHOD``.

A new one is a new file here: what its providers are called, ``--provider`` takes, and networks run there.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.contracts import AUTO, registered
from onnxmerge.errors import UsageError
from onnxmerge.model.runtime import Runtime

RUNTIMES: Mapping[str, Runtime] = registered(__name__, Runtime)

PROVIDERS: Mapping[str, Runtime] = {
    provider: runtime for runtime in RUNTIMES.values() for provider in runtime.providers
}
"""The runtime of each provider."""

CHOICES = (AUTO, *PROVIDERS)
"""What ``--provider`` takes."""


def available(choice: str) -> str:
    """The provider that a choice comes to here: ``auto`` takes CUDA where it really loads, and the CPU elsewhere.

    Raises UsageError for an unknown choice, or one that is not available here.
    """
    if choice == AUTO:
        return "cpu" if PROVIDERS["cuda"].missing("cuda") else "cuda"
    if choice not in PROVIDERS:
        raise UsageError(f"--provider {choice}: unknown; choose {', '.join(CHOICES)}")
    why = PROVIDERS[choice].missing(choice)
    if why is not None:
        raise UsageError(f"--provider {choice}: not available here; {why}, or use --provider cpu")
    return choice
