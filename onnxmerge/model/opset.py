"""The operator set of a copy of a model that is measured and thrown away: any from 6 to the newest will do.

What is added for measuring is written in operators that opset 7 has (from there on arithmetic broadcasts), or that ONNX
Runtime has at every opset. So no node of the model has to be converted, and the statistics are the same at any opset.
"""

from __future__ import annotations

import onnx_ir as ir

LEAST = 7
"""The least opset at which statistics can be added."""

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators, which do not depend on a model's opset."""


def make_measurable(model: ir.Model) -> int:
    """Raise the opset of a copy, in place, to the least that statistics need; returns what it is then.

    Of the operators that opset 7 redefined, ONNX Runtime runs none at older opsets: those that it does run stay what
    they are. A model that uses no standard operator may not name an opset at all.
    """
    imports = model.graph.opset_imports
    imports.setdefault(MICROSOFT, 1)
    standard = "ai.onnx" if "ai.onnx" in imports else ""
    imports[standard] = max(imports.get(standard, LEAST), LEAST)
    return imports[standard]
