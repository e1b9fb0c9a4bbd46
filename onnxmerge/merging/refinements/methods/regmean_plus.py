"""RegMean++: RegMean by what layers read in the merged network (arXiv 2508.03121, section 4).

As ``regmean``, but that G_m is the Gram matrix of the rows that the layer reads in the merged network, whose layers so
far are averaged, on the data of parent m: what it will read there. On data that all parents share, every G_m would be
the same and the result the plain average, so each parent needs data of its own.
"""

from __future__ import annotations

from onnxmerge.calibration.progress import Report
from onnxmerge.contracts import Options
from onnxmerge.errors import UsageError
from onnxmerge.merging.closed_form.context import MergeContext, Refined
from onnxmerge.merging.refinements.methods.regmean import averaged_by_grams
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.units.zips import Matchings


def regmean_plus(
    context: MergeContext, matchings: Matchings, _options: Options | None = None, progress: Report | None = None
) -> Refined:
    """Average the linear layers of the parents by Gram matrices of the merged network, on each parent's data.

    Raises UsageError for a zip or without data of each parent's own, InputError where it is empty or activations are
    not finite.
    """
    if not context.own:
        raise UsageError("RegMean++ needs data of each model's own: give it (--calib-of)")
    return averaged_by_grams(context, matchings, progress, merged_prefix=True)


METHOD = Refinement(
    name="regmean++",
    summary="average each linear layer by the Gram matrices of what it reads merged, on each model's data (RegMean++)",
    source="arXiv 2508.03121",
    label="RegMean++",
    refine=regmean_plus,
    options=Options,
    needs=("own data",),
    restores=False,
    one_to_one=True,
    any_start=True,
    rank=3,
)
