"""Dependence: which leaves may vary with which.

The rule behind it: *a space may vary only with spaces that are present in every tensor that carries it.* A tensor here
includes the statistics that an operator computes on the way (the mean over a LayerNorm's axis). So the dependences
are one intersection over all tensors, taken after unification, and the order of the operators is of no account.
A family (q, k and v moving apart) may stand only where the axis it depends on stands beside it; where a tensor carries
the one without the other, its members become one, and everything is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.expand import Expander, MissingAxisError, Region
from onnxmerge.axes.node_context import Findings
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.spaces import Spaces
from onnxmerge.units.layout import Typing


def resolve(
    cells: Cells,
    axes: Mapping[str, Axes],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Sequence[str],
    statistics: frozenset[str],
    findings: Findings,
) -> tuple[Typing, Mapping[int, str]]:
    """Make spaces of the free leaves of all tensors and lay every tensor out over them.

    Returns the typing, and the space of each leaf cell (for ``axes.explain``).
    """
    expanded = settle_families(cells, [*axes.values(), *findings.hidden])
    blocks = {name: expanded[_roots(cells, found)] for name, found in axes.items()}
    beside = dependences(cells, (block for found in expanded.values() for block in found))
    spaces = Spaces(cells, blocks, weights, beside)
    layouts = {name: spaces.layout(name, shapes[name]) for name in blocks}
    typing = Typing(
        spaces=spaces.table,
        initializers={name: layout for name in weights if (layout := layouts[name]) is not None},
        activations={n: layout for n, layout in layouts.items() if layout is not None and n not in set(weights)},
        statistics=statistics,
        taps=spaces.taps(findings.taps),
    )
    return typing, spaces.names


def settle_families(cells: Cells, tensors: Iterable[Axes]) -> dict[Axes, list[Region]]:
    """Expand every tensor, collapsing families that cannot stand, until nothing changes."""
    tensors = list(tensors)
    while True:
        cells.settle_copies()
        expander, expanded, violated = Expander(cells), {}, set()
        for axes in {_roots(cells, axes): None for axes in tensors}:
            try:
                expanded[axes] = expander.blocks(axes)
            except MissingAxisError as missing:
                violated.add(missing.family)
        twice = {leaf for regions in expanded.values() for region in regions for leaf in _twice_on_one_axis(region)}
        twice = {leaf for leaf in twice if cells.fixed(leaf) is None}
        if not violated and not twice:
            return expanded
        cells.where = "a tensor without the axis it varied with"
        for family in sorted(violated):
            cells.collapse(family, for_good=True)
        cells.where = ""
        for leaf in sorted(twice):
            cells.fix(leaf, "one axis is made of these units twice (a flattened outer product)")


def _twice_on_one_axis(region: Region) -> Iterator[int]:
    """Leaves that stand twice on one axis: a layout could not tell which of them a dependence is on."""
    for grid in region:
        counts = Counter(leaf for leaf, _ in grid.leaves) if grid is not None else {}
        yield from (leaf for leaf, count in counts.items() if count > 1)


def _roots(cells: Cells, axes: Axes) -> Axes:
    return tuple(NEUTRAL if cell == NEUTRAL or cells.size(cell) == 1 else cells.find(cell) for cell in axes)


def dependences(cells: Cells, blocks: Iterable[Region]) -> dict[int, set[int]]:
    """For each free leaf, the leaves that stand beside it in every block that carries it.

    One that stands there twice is only beside it if one of the two is on its own axis: else it is not known which.
    """
    beside: dict[int, set[int]] = {}
    for block in blocks:
        grids = [grid.leaves for grid in block if grid is not None]
        counts = Counter(leaf for leaves in grids for leaf, _ in leaves)
        for leaves in grids:
            own = Counter(leaf for leaf, _ in leaves)
            for leaf in own:
                if cells.fixed(leaf) is None:
                    found = {other for other, count in counts.items() if (own.get(other) or count) == 1} - {leaf}
                    beside[leaf] = beside[leaf] & found if leaf in beside else found
    return beside
