"""Rows that not every model has: a token that a model's vocabulary lacks has a row in it all the same, made up.

Models of different vocabularies are brought to one token list before they are paired up (``resizing.vocabulary``). What
is made of them has, for a token, what the models that own it say: their mean, and never the rows of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.lazy_weights import LazyWeights, Overlay
from onnxmerge.types import Array, Arrays, Positions


@dataclass(frozen=True, slots=True, eq=False)
class OwnedRows:
    """Which models own which tokens.

    ``axes`` are the initializers that have something for each token, and along which axis; ``owners`` [models, tokens]
    says who owns what, ``base`` [tokens] what the model does that all were fine-tuned from, where there is one.
    """

    axes: Mapping[str, int]
    owners: NDArray[np.bool_]
    base: NDArray[np.bool_] | None = None

    @property
    def partly(self) -> Positions:
        """The tokens that one of the models lacks, or the base."""
        every = self.owners.all(axis=0)
        return np.flatnonzero(~(every if self.base is None else every & self.base))

    def groups(self) -> Iterator[tuple[tuple[int, ...], Positions]]:
        """(owners, tokens) of the tokens that some of the models own and others lack."""
        some = np.flatnonzero(~self.owners.all(axis=0) & self.owners.any(axis=0))
        kinds, which = np.unique(self.owners[:, some], axis=1, return_inverse=True)
        for index, kind in enumerate(kinds.T):
            yield tuple(np.flatnonzero(kind).tolist()), some[which.reshape(-1) == index]

    def with_means(self, name: str, mean: Array, mean_of: Callable[[tuple[int, ...]], Array]) -> Array:
        """The ``mean`` of an initializer over all models, with rows of partly owned tokens as their owners have them.

        ``mean_of`` gives the mean of the initializer over some models.
        """
        if name not in self.axes:
            return mean
        found = mean
        for owners, tokens in self.groups():
            found = np.array(mean) if found is mean else found
            index = along(self.axes[name], tokens)
            found[index] = mean_of(owners)[index]
        return found

    def keeping(self, before: Arrays, after: Arrays) -> Arrays:
        """``after`` with the rows of partly owned tokens as they are in ``before``."""
        tokens = self.partly

        def kept(name: str) -> Array:
            array = after[name]
            if name not in self.axes or not tokens.size:
                return array
            found, index = np.array(array), along(self.axes[name], tokens)
            found[index] = before[name][index]
            return found

        return LazyWeights(after, kept)

    def from_base(self, base: Arrays, means: Arrays, models: Sequence[Arrays]) -> tuple[Arrays, tuple[Arrays, ...]]:
        """The base and the models with rows of tokens that they lack: the base's are ``means``, the models' the base's.

        So a model has learnt nothing of a token that it does not know.
        """
        known = np.ones(self.owners.shape[1], np.bool_) if self.base is None else self.base
        start = self._filled(base, means, ~known)
        return start, tuple(self._filled(own, start, ~owned) for own, owned in zip(models, self.owners, strict=True))

    def _filled(self, own: Arrays, source: Arrays, lacking: NDArray[np.bool_]) -> Arrays:
        tokens = np.flatnonzero(lacking)

        def filled(name: str) -> Array:
            array = own[name]
            if name not in self.axes or not tokens.size:
                return array
            found, index = np.array(array), along(self.axes[name], tokens)
            found[index] = source[name][index]
            return found

        return LazyWeights(own, filled)


def laid_over(owned: OwnedRows | None, before: Arrays, changed: Arrays) -> Arrays:
    """Weights of which some are ``changed``, but for the rows of tokens that one of the models lacks."""
    return Overlay(before, changed if owned is None else owned.keeping(before, changed))


def along(axis: int, positions: Positions) -> tuple[slice | Positions, ...]:
    """The index of some positions along one axis."""
    return (*(slice(None),) * axis, positions)
