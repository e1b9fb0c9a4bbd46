"""Weights by name that are computed when they are read: what a stage does to weights costs nothing until then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray


class LazyWeights(Mapping[str, NDArray[Any]]):
    """Arrays by name, each computed on every access: never more than one is held."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], NDArray[Any]]) -> None:
        self._names = dict.fromkeys(names)
        self._compute = compute

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Overlay(Mapping[str, NDArray[Any]]):
    """Weights of which some have been replaced, or added to them."""

    def __init__(self, base: Mapping[str, NDArray[Any]], changed: Mapping[str, NDArray[Any]]) -> None:
        self._base, self._changed = base, changed

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._changed[name] if name in self._changed else self._base[name]

    def __contains__(self, name: object) -> bool:
        return name in self._changed or name in self._base

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._base, *self._changed]))

    def __len__(self) -> int:
        return len(dict.fromkeys([*self._base, *self._changed]))
