"""Schemas of inputs and outputs as JSON files.

    {"inputs":  {"image": {"type": "float32", "shape": ["N", 3, 224, 224]}},
     "outputs": {"logits": {"type": "float32", "shape": ["N", 1000]}}}

A name in a shape is a size that must stay free, null one about which nothing is said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnxmerge.checking.schema import Interface, Port
from onnxmerge.documents import first_fault, read_json
from onnxmerge.errors import InputError
from onnxmerge.files import named


class _Port(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    type: str | None = None
    shape: list[Annotated[int, Field(ge=1)] | str | None] | None = None


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    inputs: dict[str, _Port] | None = None
    outputs: dict[str, _Port] | None = None


def json_schema() -> dict[str, Any]:
    """The JSON schema of such a file: specs/check/interface.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_Schema.model_json_schema()}


def read_schema(path: str | os.PathLike[str]) -> Interface:
    """The interface in a JSON file. Raises InputError, naming the key and what was expected."""
    content = read_json(path, "a schema of inputs and outputs")
    try:
        found = _Schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{named(path)}: {first_fault(error, 'the file')}; see docs/checking.md") from error
    if found.inputs is None and found.outputs is None:
        raise InputError(f"{named(path)}: says nothing of inputs or outputs; see docs/checking.md")
    return Interface(_ports(found.inputs), _ports(found.outputs))


def _ports(given: Mapping[str, _Port] | None) -> tuple[Port, ...] | None:
    if given is None:
        return None
    return tuple(
        Port(name, port.type, None if port.shape is None else tuple(port.shape)) for name, port in given.items()
    )
