from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.matching.cache import CachedWeights


class Counted(Mapping[str, NDArray[Any]]):
    """Weights that count how often each is read."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.weights = weights
        self.reads: Counter[str] = Counter()

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.reads[name] += 1
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def counted() -> Counted:
    return Counted({name: np.zeros(size, np.uint8) for name, size in (("a", 40), ("b", 50), ("c", 30), ("huge", 101))})


def test_reads_once_what_fits() -> None:
    source = counted()
    cache = CachedWeights(source, 100)
    for _ in range(3):
        assert len(cache["a"]) == 40
        assert len(cache["b"]) == 50
    assert source.reads == {"a": 1, "b": 1}


def test_drops_what_was_used_longest_ago() -> None:
    source = counted()
    cache = CachedWeights(source, 100)
    for name in ("a", "b", "a", "c", "a", "b"):
        cache[name]
    assert source.reads == {"a": 1, "b": 2, "c": 1}


def test_never_keeps_what_is_larger_than_the_limit() -> None:
    source = counted()
    cache = CachedWeights(source, 100)
    for name in ("a", "huge", "huge", "a"):
        cache[name]
    assert source.reads == {"a": 1, "huge": 2}


def test_is_a_mapping_over_the_same_names() -> None:
    cache = CachedWeights(counted(), 100)
    assert list(cache) == ["a", "b", "c", "huge"]
    assert len(cache) == 4
