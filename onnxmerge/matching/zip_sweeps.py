"""Zip all models together: sweeps over the groups until nothing improves.

Algorithm 1 of Xu et al., Training-Free Pretrained Model Merging (CVPR 2024, arXiv 2403.01753) with the greedy zip of
Stoica et al. (``matching.zipping``) in place of the assignment. In a structured group outer units are matched as when
one model is aligned to the first; then units are zipped inside matched outer units, so that each keeps its size.
Plain groups become as wide as ``ModelsToZip.widths`` says; until a group is zipped its neighbours see it unmoved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmerge.matching.structured import solve
from onnxmerge.matching.sweeps import TOLERANCE, Sweeps, climb, one_by_one
from onnxmerge.matching.zip_objective import ZipObjectiveFunction, retained_in
from onnxmerge.matching.zip_similarity import (
    ModelsToZip,
    outer_problem,
    placed,
    similarities,
    targets_of,
    zipped_spaces,
)
from onnxmerge.matching.zipping import ZipRule, zip_units
from onnxmerge.types import Positions
from onnxmerge.units.groups import Group, inward
from onnxmerge.units.permutations import invert
from onnxmerge.units.zips import Zipped, identity_zip


def unmoved_zip(models: ModelsToZip) -> Zipped:
    """The zip of the plain average."""
    return Zipped(tuple(identity_zip(models.plan.spaces) for _ in models.weights))


def zip_by_activations(models: ModelsToZip, rule: ZipRule) -> Zipped:
    """One pass with activations alone; weights only where no activations were seen."""
    alone = replace(models, alphas={name: float(alpha == 1.0) for name, alpha in models.alphas.items()})
    zips = unmoved_zip(models)
    for group in models.plan.groups.values():
        zips = zip_group(alone, group, zips, rule)
    return zips


def zip_by_weights(models: ModelsToZip, rule: ZipRule) -> Zipped:
    """One pass by weights, from the inputs and the outputs inward.

    To start from the identity would be to compare units by neighbours in an arbitrary order.
    """
    zips = unmoved_zip(models)
    for group in inward(models.plan):
        zips = zip_group(models, group, zips, rule)
    return zips


def zip_sweep(
    objective_of: ZipObjectiveFunction,
    start: Zipped,
    roots: Collection[str],
    rule: ZipRule,
    *,
    rng: np.random.Generator,
    max_sweeps: int,
) -> Sweeps[Zipped]:
    """Improve a zip of the objective's models by sweeps over the groups ``roots``."""
    groups = objective_of.models.plan.groups

    def improve(current: Zipped, root: str) -> tuple[Zipped, int]:
        found, better = _improve(objective_of, groups[root], current, rule)
        return (found, _moved(current, found, groups[root].members)) if better else (current, 0)

    graph = objective_of.models.plan.graph
    return climb(start, objective_of, one_by_one(improve), graph, roots, rng=rng, max_sweeps=max_sweeps)


def zip_group(models: ModelsToZip, group: Group, zips: Zipped, rule: ZipRule) -> Zipped:
    """Zip one group's units anew, all others being merged as ``zips`` says."""
    if len(group.members) > 1:
        zips = _with(zips, _align_outer(models, group, zips))
    for name in zipped_spaces(group):
        found = [
            zip_units(similarity, models.models, name, width=models.widths.get(name), rule=rule, overwrite=True)
            for similarity in similarities(models, group, name, zips)
        ]
        zips = _zipped_to(models, name, zips, found)
    return zips


def _improve(objective_of: ZipObjectiveFunction, group: Group, zips: Zipped, rule: ZipRule) -> tuple[Zipped, bool]:
    """The group zipped anew, and whether that is better: the greedy zip need not be, and equals do not take turns."""
    models = objective_of.models
    if len(group.members) > 1 or models.plan.moves_itself(group):
        found = zip_group(models, group, zips, rule)
        if not _moved(zips, found, group.members):
            return found, False
        old, new = (
            sum(objective_of.retained(group, name, each).total for name in zipped_spaces(group))
            for each in (zips, found)
        )
    else:  # its similarity does not depend on its own zip: one look will do
        name, old, new, several = group.root, 0.0, 0.0, []
        targets = targets_of(models, name, zips)
        for similarity, before in zip(similarities(models, group, name, zips), targets, strict=True):
            several.append(zip_units(similarity, models.models, name, width=models.widths.get(name), rule=rule))
            old += retained_in(similarity, before)
            new += retained_in(similarity, several[-1].reshape(-1))
        found = _zipped_to(models, name, zips, several)
    return found, new > old + TOLERANCE * max(abs(old), abs(new))


def _align_outer(models: ModelsToZip, group: Group, zips: Zipped) -> list[dict[str, Positions]]:
    """Labels of a whole group, of each model: outer units aligned to the first model's, inner ones for a start."""
    spaces = models.plan.spaces
    found = [{name: each for name, each in identity_zip(spaces).items() if name in group.members}]
    for other in range(1, models.models):
        problem = outer_problem(models, group, other, zips)
        found.append(invert(solve(group.root, problem, group.children, {})[1], spaces))
    return found


def _zipped_to(models: ModelsToZip, name: str, zips: Zipped, found: Sequence[Positions]) -> Zipped:
    """The zip with other labels of one space: for each combination of outer units [models, size]."""
    labels = placed(models, name, zips, np.stack(found, axis=1))
    widths = {name: models.widths[name]} if name in models.widths else {}
    return replace(_with(zips, [{name: own} for own in labels]), widths={**zips.widths, **widths})


def _with(zips: Zipped, labels: Collection[Mapping[str, Positions]]) -> Zipped:
    found = tuple({**before, **now} for before, now in zip(zips.models, labels, strict=True))
    return replace(zips, models=found)


def _moved(before: Zipped, after: Zipped, names: Collection[str]) -> int:
    """How many units of these spaces are part of another merged unit than before."""
    return sum(
        int((one[name] != other[name]).sum())
        for one, other in zip(before.models, after.models, strict=True)
        for name in names
    )
