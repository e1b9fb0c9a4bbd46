"""The JSON schema of what ``--format json`` writes, made from the types that it is made of.

It is specs/check/report.schema.json, which tools/check_schemas.py writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from onnxmerge.checking.finding import Finding, Layer


class Counts(BaseModel):
    """How many findings there are of each verdict."""

    model_config = ConfigDict(extra="forbid")
    passes: Annotated[int, Field(alias="pass")]
    fail: int
    skipped: int
    unsupported: int


class Report(BaseModel):
    """`CheckReport.to_dict`."""

    model_config = ConfigDict(extra="forbid")
    version: str
    model: str
    sha256: str | None
    passed: bool
    exit_code: Literal[0, 3, 4]
    counts: Counts
    findings: list[Finding]
    layers: list[Layer]


class Reports(BaseModel):
    """What stands for the reports of several models."""

    model_config = ConfigDict(extra="forbid")
    passed: bool
    exit_code: Literal[0, 3, 4]
    reports: list[Report]


def json_schema() -> dict[str, Any]:
    """The schema of one report, or of several."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(Report | Reports).json_schema()}
