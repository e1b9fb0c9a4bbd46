"""How good a zip is: what is left of the units' variance when every unit is replaced by the mean it was merged to.

A search measures one zip after another, and from one to the next most groups stay as they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.matching.objective import ModelSimilarity
from onnxmerge.matching.similarity import CHUNK_BYTES
from onnxmerge.matching.zip_similarity import (
    ModelsToZip,
    Sums,
    in_order,
    merged_size,
    shape_of,
    taken,
    targets_of,
    unit_vectors,
    zipped_spaces,
)
from onnxmerge.types import Floats, Positions
from onnxmerge.units.groups import Group
from onnxmerge.units.zips import Zipped, membership


@dataclass(frozen=True, slots=True)
class Retained:
    """The variance that units keep when they are replaced by the means of those they were merged with.

    ``total`` adds up, over all merged units, the squared length of the sum of their members (normalised weight vectors
    or activations) over their number; ``alone`` is what it would be if none resembled any other, ``share`` the largest
    variance of a single unit.
    """

    total: float
    alone: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class ZipObjectiveFunction:
    """Measures one zip of ``models`` after another; what a group kept is not computed again until its units move."""

    models: ModelsToZip
    _known: dict[tuple[str, bytes], Retained] = field(default_factory=dict)

    def __call__(self, zips: Zipped) -> ModelSimilarity:
        """How alike the units are that were merged.

        ``total`` adds up what all spaces keep (``Retained``); ``mean`` is the mean similarity of what each merge
        brought together.
        """
        kept, means = 0.0, {}
        for group in self.models.plan.groups.values():
            for name in zipped_spaces(group):
                found = self.retained(group, name, zips)
                outer, units = shape_of(self.models, name)
                kept += found.total
                merges = outer * (units - merged_size(self.models, name, zips))
                if found.share and merges:
                    means[name] = (found.total - found.alone) / found.share / merges
            for name in reversed(group.members):
                inside = [means[child] for child in group.children[name] if child in means]
                if inside:
                    means[name] = sum(inside) / len(inside)
        return ModelSimilarity(kept, {name: means[name] for name in self.models.plan.spaces if name in means})

    def retained(self, group: Group, name: str, zips: Zipped) -> Retained:
        """What the units of one space of a group keep."""
        digest = hashlib.blake2b(digest_size=16)
        around = {space for occurrence in group.occurrences for space in occurrence.block.spaces}
        for space in sorted(around.union(group.members)):
            digest.update(f"{space} {zips.widths.get(space)}".encode())
            for labels in zips.models:
                digest.update(labels[space].tobytes() if space in labels else b"-")
        key = name, digest.digest()
        if key not in self._known:
            self._known[key] = _retained(self.models, group, name, zips)
        return self._known[key]


def _retained(models: ModelsToZip, group: Group, name: str, zips: Zipped) -> Retained:
    """What a space's units keep. Their vectors are gone through twice, for norms and for means."""
    alpha = models.alphas[name]
    sums = Sums(*shape_of(models, name))
    held: list[Floats] = []
    room = CHUNK_BYTES
    for vectors in unit_vectors(models, group, name, zips) if alpha else ():
        sums.add(vectors)
        room -= vectors.nbytes if vectors.base is None else vectors.base.nbytes  # a part keeps its whole alive
        held = [*held, vectors] if room >= 0 else []
    targets = targets_of(models, name, zips)
    width = merged_size(models, name, zips)
    members = membership(targets + width * np.arange(sums.outer)[:, None], sums.outer * width)
    sizes = np.maximum(members.sum(axis=1), 1)
    scales = sums.scales().reshape(-1, 1)
    kept = np.zeros(len(sizes))
    for vectors in held or (unit_vectors(models, group, name, zips) if alpha else ()):
        together = np.asarray(members @ (scales * vectors.reshape(len(scales), -1)))
        kept += np.einsum("uf,uf->u", together, together)
    if sums.features:
        kept -= np.asarray(members @ (scales[:, 0] * sums.total.reshape(-1))) ** 2 / sums.features
    total = alpha * float((kept / sizes).sum())
    alone = alpha * float(((scales[:, 0] > 0) @ members.T / sizes).sum())
    if name in models.activations:
        for target, rows in zip(targets, in_order(models, name, zips), strict=True):
            seen = taken(models.activations[name], rows)
            total += (1 - alpha) * retained_in(seen, target)
            alone += (1 - alpha) * float((seen.diagonal() / np.bincount(target, minlength=width)[target]).sum())
    share = (alpha if sums.features else 0.0) + (1 - alpha if name in models.activations else 0.0)
    return Retained(total, alone, share)


def retained_in(similarity: Floats, targets: Positions) -> float:
    """As ``retained``, of units whose similarity is known: the merged unit of each, [models * size]."""
    width = int(targets.max(initial=0)) + 1
    together = np.asarray(membership(targets, width) @ similarity)
    return float((together[targets, np.arange(len(targets))] / np.bincount(targets, minlength=width)[targets]).sum())
