"""What ``check`` says of a merge that was just made: the gates that need a few samples, and no second look at the data.

Groups were proved of the parents, and agreement, accuracy and cost are measured while merging, on more samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxmerge.api.check import check
from onnxmerge.api.outcome import MergeResult
from onnxmerge.checking.report import CheckReport
from onnxmerge.checking.subject import could_not
from onnxmerge.errors import InputError
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.prepare import ModelSource

ASKED = ("integrity", "interface", "behaviour", "provenance")
"""Families of gates."""


def check_merge(
    result: MergeResult,
    file: Path,
    parents: Sequence[ModelSource],
    *,
    name: str,
    inputs: Mapping[str, SampleInput] | None = None,
    provider: str = "cpu",
) -> CheckReport:
    """Hold a merge that was written to ``file`` to the gates of ASKED; it is called ``name``.

    They run on ``details.few`` where there is data, else on a synthetic sample (``inputs``: see `check`). What cannot
    be read is a failure, and raises nothing: the merge was made.
    """
    few = {} if result.details is None else result.details.few
    try:
        found = check(
            file,
            against=parents,
            data=few or None,
            inputs=None if few else inputs,
            only=ASKED,
            provider=provider,
        )
    except InputError as error:
        return CheckReport(name, None, (could_not("integrity.loads", str(error)),))
    return replace(found, model=name)
