"""Products that are kept and mended are those that are formed anew."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.matching import products
from onnxmerge.matching.products import ProductsOfPair
from onnxmerge.matching.similarity import PairOfModels, group_problem, weight_shares
from onnxmerge.types import Positions
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Space, Typing
from onnxmerge.units.permutations import random_permutations
from tests.layouts import typed

MLP = typed(
    [Space("u", 6), Space("v", 5)],
    {"w": ["4", "u"], "b": ["u"], "m": ["u", "v"], "square": ["u", "u"], "z": ["v", "3"]},
)
HEADS = typed(
    [Space("s", 6), Space("h", 3), Space("d", 4, ("h",))],
    {"q": ["s", "h d"], "o": ["h d", "s"], "e": ["7", "s"]},
)


def weights(typing: Typing, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(layout.shape).astype(np.float32) for name, layout in typing.initializers.items()}


def few_moved(perms: dict[str, Positions], rng: np.random.Generator) -> dict[str, Positions]:
    """Two units of every space in each other's place."""
    found = {}
    for name, perm in perms.items():
        rows = perm.copy().reshape(-1, perm.shape[-1])
        one, other = rng.choice(rows.shape[1], 2, replace=False)
        rows[0, [one, other]] = rows[0, [other, one]]
        found[name] = rows.reshape(perm.shape)
    return found


@pytest.mark.parametrize("typing", [MLP, HEADS])
@pytest.mark.parametrize("objective", ["correlation", "inner"])
def test_kept_products_are_those_formed_anew(typing: Typing, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", 0)
    monkeypatch.setattr(products, "KEPT_BYTES", 300)  # so that some are dropped
    plan, first, other = make_plan(typing), weights(typing, 0), weights(typing, 1)
    rng = np.random.default_rng(2)
    anew = PairOfModels(plan, first, other, {}, weight_shares(plan, 1.0, {}), objective)  # type: ignore[arg-type]
    kept = ProductsOfPair(plan, first, other)
    pair = PairOfModels(plan, first, other, {}, anew.alphas, anew.objective, kept)
    perms = random_permutations(plan.spaces, 3)
    for turn in range(12):
        perms = random_permutations(plan.spaces, turn) if turn % 4 == 3 else few_moved(perms, rng)
        for group in plan.groups.values():
            assert kept(group, perms) is not None
            found, wanted = (group_problem(each, group, perms) for each in (pair, anew))
            for name, similarity in wanted.similarity.items():
                np.testing.assert_allclose(found.similarity[name], similarity, atol=2e-5)


def test_infinite_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", 0)
    plan, first, other = make_plan(MLP), weights(MLP, 0), weights(MLP, 1)
    other["w"][0, 0] = -np.inf
    kept = ProductsOfPair(plan, first, other)
    perms = random_permutations(plan.spaces, 0)
    assert kept(plan.groups["u"], perms) is None
    assert kept(plan.groups["u"], perms) is None
    assert kept(plan.groups["v"], perms) is not None


def test_small_groups_are_not_kept() -> None:
    plan = make_plan(MLP)
    kept = ProductsOfPair(plan, weights(MLP, 0), weights(MLP, 1))
    assert kept(plan.groups["u"], random_permutations(plan.spaces, 0)) is None
