"""The refinements, by name: a module each, with a ``METHOD``.

A new one is a new file here: the command line, its help, recipes, checks of options, searches and
the tables in docs/ are made of what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxmerge.contracts import registered
from onnxmerge.merging.refinements.refinement import Refinement

REFINEMENTS: Mapping[str, Refinement[Any]] = registered(__name__, Refinement)
