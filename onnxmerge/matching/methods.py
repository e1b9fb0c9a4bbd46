"""The matching methods by name.

Some align every other model to the first, each by itself, so with more than two models it matters which is the first
(with ``joint_method`` it does not). average: no matching. rebasin: weights alone (Git Re-Basin, arXiv 2209.04836).
act-align: activations alone, one pass. mudsc-align: both (MuDSC, arXiv 2403.01753).

The others zip the units of all models together. zipit: activations alone, one pass (ZipIt!, arXiv 2305.03053).
weight-zip: weights alone. mudsc-zip: both.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.matching.align_method import Method
from onnxmerge.matching.zip_method import ZipMethod

MATCHERS: Mapping[str, Method | ZipMethod] = {
    method.name: method
    for method in (
        Method("average", "no matching: the plain average", 1.0, matched=False),
        Method("rebasin", "weights alone (Git Re-Basin)", 1.0),
        Method("act-align", "activations alone, one pass", 0.0),
        Method("mudsc-align", "weights and activations (MuDSC)", None),
        ZipMethod("zipit", "zip by activations alone, one pass (ZipIt!)", 0.0),
        ZipMethod("weight-zip", "zip by weights alone", 1.0),
        ZipMethod("mudsc-zip", "zip by weights and activations (MuDSC)", None),
    )
}
