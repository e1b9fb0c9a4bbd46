"""Keep recently read initializers in memory, up to a bound: matching reads each of them many times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CachedWeights(Mapping[str, NDArray[Any]]):
    """Lazy weights behind a cache of ``limit`` bytes that drops what was used longest ago.

    A tensor larger than the limit is read on every access and never kept. Several threads may read.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]], limit: int) -> None:
        self._weights = weights
        self._limit = limit
        self._held = 0
        self._cache: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[type[CachedWeights], tuple[Mapping[str, NDArray[Any]], int]]:
        """What another process gets of it: nothing that is kept, for that is among the weights too."""
        return CachedWeights, (self._weights, self._limit)

    def __getitem__(self, name: str) -> NDArray[Any]:
        with self._turn:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
            array = np.asarray(self._weights[name])
            if array.nbytes <= self._limit:
                self._cache[name] = array
                self._held += array.nbytes
                while self._held > self._limit:
                    self._held -= self._cache.popitem(last=False)[1].nbytes
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
