"""The rotation that brings one model's units closest to another's: orthogonal Procrustes.

For the products C [size, size] of the first model's units by the other's, in weights and in activations, the rotation
R that maximises tr(R^T C) is U V^T with C = U S V^T (Schoenemann, Psychometrika 31, 1966).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmerge.types import Arrays, Floats, Positions
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import composite_shape, composite_sources
from onnxmerge.units.rotation import places, units_of


def products(first: Arrays, other: Arrays, typing: Typing, space: str) -> Floats:
    """How the units of a space go together in the weights of two models [*outer, size, size].

    The sum, over all that is computed with the space's units, of the first model's unit u times the other's unit v,
    as a share of the lengths of both (Frobenius); 0 where either is 0.
    """
    total, sizes = np.zeros(()), [np.zeros(()), np.zeros(())]
    for name, layout in typing.initializers.items():
        for block, slot in places(layout, space):
            one, two = (units_of(each[name], layout, block, slot, typing.spaces) for each in (first, other))
            total = total + one @ np.swapaxes(two, -1, -2)
            sizes = [size + np.square(each).sum(axis=(-1, -2)) for size, each in zip(sizes, (one, two), strict=True)]
    return _share(total, np.sqrt(sizes[0] * sizes[1]))


def covariances(
    covariance: Floats, variances: tuple[Floats, Floats], typing: Typing, space: str, perms: Mapping[str, Positions]
) -> Floats:
    """How the units of a space go together in the activations of two models [*outer, size, size].

    From the covariance [n, n] of all composite units (see ``Gram``) and their variances [n] in each model.
    """
    shape = composite_shape(space, typing.spaces)
    units = np.arange(covariance.shape[0]).reshape(shape)
    partners = units[composite_sources(space, typing.spaces, perms)]
    partners = np.broadcast_to(partners, shape)
    total = covariance[units[..., :, None], partners[..., None, :]]
    lengths = np.sqrt(variances[0][units].sum(axis=-1) * variances[1][partners].sum(axis=-1))
    return _share(total, lengths)


def _share(total: Floats, lengths: Floats) -> Floats:
    """Products as a share of ``lengths``; 0 where these are."""
    alive = (lengths > 0)[..., None, None]
    return np.where(alive, total / np.where(alive, lengths[..., None, None], 1.0), 0.0)


def procrustes(total: Floats) -> Floats:
    """The rotations R that bring the other model's units closest to the first's: maximise tr(R^T C).

    ``total`` [*outer, size, size] are the products C, first model's units by other's. Schoenemann (Psychometrika 31,
    1966): R = U V^T with C = U S V^T.
    """
    left, _, right = np.linalg.svd(total)
    return np.asarray(left @ right)
