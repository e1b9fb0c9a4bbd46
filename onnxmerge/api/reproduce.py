"""Merge again as the recipe in a model's metadata says, from the files that it names by their digests."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmerge.api.merge import merge
from onnxmerge.api.outcome import MergeResult
from onnxmerge.errors import InputError
from onnxmerge.model.read import read_network
from onnxmerge.model.runtimes import PROVIDERS
from onnxmerge.model.scratch import scratch_folder
from onnxmerge.pipeline.methods import OWN_OPTIONS
from onnxmerge.pipeline.options import COMMON, MergeOptions, merge_options
from onnxmerge.pipeline.prepare import ModelSource


def remade(recipe: str, parents: Sequence[ModelSource], operators: Path | None, given: Mapping[str, Any]) -> str:
    """The digest of what `merged_again` gives."""
    return digest_of(merged_again(recipe, parents, operators, given))


def digest_of(model: ModelSource | MergeResult) -> str:
    """The digest of a model, as `read_network` has it; of a merge that of the file that it would write."""
    if not isinstance(model, MergeResult):
        return read_network(model).sha256
    with scratch_folder(Path(tempfile.gettempdir()), "onnxmerge-") as folder:
        return read_network(model.save(folder / "again.onnx")).sha256


def merged_again(
    recipe: str, parents: Sequence[ModelSource], operators: Path | None, given: Mapping[str, Any], **how: Any
) -> MergeResult:
    """Merge as a recipe says.

    Args:
        recipe: ``onnxmerge.recipe`` of the model.
        parents: The models, in any order, and the base where there was one.
        operators: The file of operators, where there was one.
        given: The other arguments of `merge`: calibration, labels, tasks, vectors, inputs, image_options.
        **how: Arguments of `merge` that change nothing of what it gives (details, progress).

    Raises:
        InputError: the recipe cannot be read, or a file that it names is not given.

    """
    try:
        found = json.loads(recipe)
        wanted, base = tuple(found["models"]), found["base"]
        options = _options(found, operators)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError("the recipe in the model's metadata cannot be read; merge again with onnxmerge run") from error
    known = {read_network(parent).sha256: parent for parent in parents}
    missing = [digest for digest in (*wanted, *([] if base is None else [base])) if digest not in known]
    if missing:
        raise InputError(
            f"the recipe names a model with SHA-256 {str(missing[0])[:16]}..., which is not given; give all parents "
            "(--against)"
        )
    for name, what in (("calibration", "--calib"), ("labels", "--labels")):
        if found.get(name) is not None and given.get(name) is None:
            raise InputError(f"the recipe was made with {name}: give the same ({what})")
    if found.get("calibration_of") is not None:
        raise InputError(
            "the recipe was made with data of each model's own, which is not given here; repeat its command with the "
            "same --calib-of, and compare the files"
        )
    if found.get("vocabulary") is not None:
        raise InputError(
            "the recipe was made with token lists, which are not given here; repeat its command with the same --vocab, "
            "and compare the files"
        )
    used = {name: value for name, value in given.items() if name in ("inputs", "image_options") or found.get(name)}
    if found.get("labels") or found.get("vectors"):
        used |= {name: given[name] for name in ("tasks", "vectors") if given.get(name) is not None}
    if found.get("calibration") is None:
        used.pop("image_options", None)
    start = None if base is None else known[base]
    return merge([known[digest] for digest in wanted], base=start, options=options, **used, **how)


def _options(found: Mapping[str, Any], operators: Path | None) -> MergeOptions:
    """The options that a recipe holds. Raises ValueError for a value of another type than its option's."""
    from onnxmerge.recipes.file import restored, schema_model  # pydantic is slow to import

    values = {name: found[name] for name in COMMON}
    every = MergeOptions(method=found["method"], refine=found["refine"]).contracts
    names = {name for contract in every for name in contract.option_names}
    values |= {name: found[name] for name in names if found.get(name) is not None}
    checked = schema_model().model_validate({"models": found["models"], **values})  # anyone may have written them
    # JSON writes 1.0 as 1, and metadata tells the two apart.
    values |= {name: value for name in values if isinstance(value := getattr(checked, name), float)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    values |= {name: restored(OWN_OPTIONS[name].hint, values[name]) for name in names & {*values}}
    called = {runtime.providers[provider]: provider for provider, runtime in PROVIDERS.items()}
    values["provider"] = called[values["provider"]]
    if values["operators"] is not None:
        if operators is None or hashlib.sha256(operators.read_bytes()).hexdigest() != values["operators"]:
            raise InputError("the recipe was made with a file of operators: give the same one (--operators)")
        values["operators"] = operators
    return merge_options(values)
