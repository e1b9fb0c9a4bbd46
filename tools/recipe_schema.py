#!/usr/bin/env python3
"""Write the JSON schema of recipes to specs/recipes/recipe.schema.json, from the fields of the options."""

from __future__ import annotations

import json
from pathlib import Path

from onnxmerge.recipes.file import json_schema

TARGET = Path(__file__).resolve().parents[1] / "specs" / "recipes" / "recipe.schema.json"

if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
