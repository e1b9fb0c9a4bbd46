#!/usr/bin/env python3
"""Write the JSON schemas of what `onnxmerge check` reads and writes to specs/check, from the types in the code."""

from __future__ import annotations

import json
from pathlib import Path

from onnxmerge.checking import config, schema_file
from onnxmerge.checking.formats import schema

FOLDER = Path(__file__).resolve().parents[1] / "specs" / "check"
SCHEMAS = {"report": schema.json_schema, "config": config.json_schema, "interface": schema_file.json_schema}

if __name__ == "__main__":
    for name, made in SCHEMAS.items():
        (FOLDER / f"{name}.schema.json").write_text(json.dumps(made(), indent=2) + "\n", encoding="utf-8")
