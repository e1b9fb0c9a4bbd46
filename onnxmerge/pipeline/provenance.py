"""What a merge was made from and how, in one canonical text: two that differ in it may differ, two that agree do not.

Every option stands in it, whatever it is called, so that none that is added later can be left out. Files stand as the
digests of what they hold: where they lay changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmerge.errors import InputError
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.answer.outputs import ClassVectors
from onnxmerge.model.runtimes import PROVIDERS, available
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.tokens import MergedTokens
from onnxmerge.pipeline.methods import OWN_OPTIONS
from onnxmerge.pipeline.options import COMMON, MergeOptions, own_differing

if TYPE_CHECKING:
    from onnxmerge.pipeline.selection.labelled import EvaluationTasks


def canonical_recipe(
    options: MergeOptions,
    *,
    models: tuple[str, ...],
    base: str | None = None,
    calibration: str | None = None,
    calibration_of: tuple[str, ...] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    asked: EvaluationTasks | None = None,
    vectors: ClassVectors | None = None,
    vocabulary: MergedTokens | None = None,
) -> str:
    """JSON on one line, its keys in order: all options, and the digests of all that was read.

    Args:
        options: What was asked for (not what a search chose), with the defaults that were not.
        models: SHA-256 of each model in order.
        base: SHA-256 of the base.
        calibration: SHA-256 of the samples.
        calibration_of: SHA-256 of each model's own samples, in order.
        inputs: Shapes or values of inputs, as they were given.
        asked: What labels mean, and the right answers.
        vectors: Class vectors that the ensemble's answer is read by.
        vocabulary: The tokens that the models were brought to, and those of each.

    Raises:
        InputError: the file of operators cannot be read.

    """
    provider = available(options.provider)
    found = {
        **{name: getattr(options, name) for name in COMMON},
        **{name: own.default for name, own in OWN_OPTIONS.items() if own.takers[0] in MATCHERS},
        "scale": None,
        "density": None,
        **own_differing(options),
        "operators": None if options.operators is None else _file(Path(options.operators)),
        "provider": PROVIDERS[provider].providers[provider],
        "models": models,
        "base": base,
        "calibration": calibration,
        "calibration_of": calibration_of,
        "inputs": inputs or {},
        "vectors": vectors or {},
        "vocabulary": None if vocabulary is None else {"tokens": vocabulary.sha256, "rows": vocabulary.rows},
        "labels": None if asked is None else _digest((asked.tasks, asked.right, asked.learned)),
    }
    return json.dumps(plain(found), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has it: a whole number is one however it was given, and arrays stand as digests."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return f"{data.dtype.str}{list(data.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
