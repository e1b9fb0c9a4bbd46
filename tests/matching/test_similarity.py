from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.errors import StructureError
from onnxmerge.matching import similarity
from onnxmerge.matching.similarity import (
    ActivationSimilarity,
    PairOfModels,
    group_problem,
    known_activations,
    weight_shares,
)
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import Permutations, identity, random_permutations, transport
from tests.matching.structures import (
    Weights,
    attention,
    batch_norm,
    depthwise_convolution,
    fused_attention,
    group_norm,
    mlp,
    random_weights,
)


def pair_of(typed: Typing, alpha: float = 1.0, activations: ActivationSimilarity | None = None) -> PairOfModels:
    plan, seen = make_plan(typed), activations or {}
    return PairOfModels(
        plan, random_weights(typed, 1), random_weights(typed, 2), seen, weight_shares(plan, alpha, seen)
    )


def aligned(pair: PairOfModels, typed: Typing, name: str, perms: Permutations) -> np.ndarray:
    return transport(pair.other[name], typed.initializers[name], typed.spaces, perms)


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.corrcoef(x.astype(np.float64), y.astype(np.float64))[: len(x), len(x) :]
    return found


@pytest.mark.parametrize("chunk", [8, 1000, 1 << 26])
def test_correlation_of_concatenated_vectors_under_the_neighbours(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "CHUNK_BYTES", chunk)
    typed = mlp()
    pair = pair_of(typed)
    perms = random_permutations(typed.spaces, 3)
    x = np.hstack([pair.first["w1"], pair.first["b1"][:, None], pair.first["w2"]])
    y = np.hstack([pair.other["w1"], pair.other["b1"][:, None], aligned(pair, typed, "w2", {"b": perms["b"]})])
    found = group_problem(pair, pair.plan.groups["a"], perms).similarity["a"]
    np.testing.assert_allclose(found, correlation(x, y), atol=1e-12)
    inner = group_problem(replace(pair, objective="inner"), pair.plan.groups["a"], perms).similarity["a"]
    np.testing.assert_allclose(inner, x.astype(np.float64) @ y.T.astype(np.float64), atol=1e-12)


def test_heads_are_compared_unit_by_unit() -> None:
    typed = attention()
    pair = pair_of(typed)
    perms = random_permutations(typed.spaces, 3)
    stream = {"s": perms["s"]}
    x = np.hstack([pair.first["q"], pair.first["q.b"][:, None], pair.first["k"].T])
    y = [aligned(pair, typed, "q", stream), pair.other["q.b"][:, None], aligned(pair, typed, "k", stream).T]
    problem = group_problem(pair, pair.plan.groups["h"], perms)
    assert problem.similarity["qk"].shape == (3, 5, 3, 5)
    np.testing.assert_allclose(problem.similarity["qk"].reshape(15, 15), correlation(x, np.hstack(y)), atol=1e-12)
    own = correlation(pair.first["table"].T, pair.other["table"].T)
    np.testing.assert_allclose(problem.similarity["h"], own, atol=1e-12)


def test_segments_of_a_tensor_are_told_apart() -> None:
    typed = fused_attention()
    pair = pair_of(typed)
    stay = identity(typed.spaces)
    x, y = (np.hstack([w["qkv"][30:45], w["qkv.b"][30:45, None], w["o"].T]) for w in (pair.first, pair.other))
    found = group_problem(pair, pair.plan.groups["h"], stay).similarity["v"].reshape(15, 15)
    np.testing.assert_allclose(found, correlation(x, y), atol=1e-12)


def test_a_space_on_two_axes_is_compared_along_both() -> None:
    typed = group_norm()
    pair = pair_of(typed)
    perms = random_permutations(typed.spaces, 3)
    own = {name: perms[name] for name in "gc"}
    source = (perms["g"][:, None] * 3 + perms["c"]).reshape(-1)
    y = dict(pair.other)
    y["up"] = transport(y["up"], typed.initializers["up"], typed.spaces, {name: perms[name] for name in "he"})
    y["down"] = transport(y["down"], typed.initializers["down"], typed.spaces, {name: perms[name] for name in "he"})

    def vectors(w: dict[str, np.ndarray], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        sides = [w["stem"], rows, columns, w["scale"], w["up"].T, w["down"]]
        return np.hstack([side.reshape(12, -1) for side in sides])

    first = dict(pair.first)
    x = vectors(first, first["conv"], first["conv"].transpose(1, 0, 2))
    moved = vectors(y, y["conv"][:, source], y["conv"][source].transpose(1, 0, 2))
    found = group_problem(pair, pair.plan.groups["g"], {**perms, **own}).similarity["c"].reshape(12, 12)
    np.testing.assert_allclose(found, correlation(x, moved), atol=1e-12)


def test_statistics_do_not_count() -> None:
    typed = batch_norm()
    pair = pair_of(typed)
    changed = replace(pair, other={**pair.other, "n1.mean": 100 * pair.other["n1.mean"]})
    stay = identity(typed.spaces)
    for group in pair.plan.groups.values():
        for name, found in group_problem(pair, group, stay).similarity.items():
            np.testing.assert_array_equal(group_problem(changed, group, stay).similarity[name], found)


def test_a_constant_unit_resembles_nothing() -> None:
    typed = mlp()
    pair = pair_of(typed)
    constant = {name: np.full_like(array, 0.1) for name, array in pair.other.items()}
    found = group_problem(replace(pair, other=constant), pair.plan.groups["a"], identity(typed.spaces))
    np.testing.assert_array_equal(found.similarity["a"], 0.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_compared_in_double(dtype: type) -> None:
    typed = mlp()
    pair = pair_of(typed)
    first: Weights = {name: w.astype(dtype) for name, w in pair.first.items()}
    other: Weights = {name: w.astype(dtype) for name, w in pair.other.items()}
    wide_first = {name: w.astype(np.float64) for name, w in first.items()}
    wide_other = {name: w.astype(np.float64) for name, w in other.items()}
    stay = identity(typed.spaces)
    narrow = group_problem(replace(pair, first=first, other=other), pair.plan.groups["b"], stay)
    wide = group_problem(replace(pair, first=wide_first, other=wide_other), pair.plan.groups["b"], stay)
    np.testing.assert_array_equal(narrow.similarity["b"], wide.similarity["b"])


def test_mixes_weights_and_activations() -> None:
    typed = mlp()
    seen = {"a": np.random.default_rng(0).uniform(-1, 1, (16, 16))}
    stay = identity(typed.spaces)
    weights = pair_of(typed)
    mixed = pair_of(typed, 0.25, seen)
    assert mixed.alphas == {"a": 0.25, "b": 1.0}
    for name in "ab":
        group = weights.plan.groups[name]
        expected = group_problem(weights, group, stay).similarity[name]
        expected = 0.25 * expected + 0.75 * seen["a"] if name == "a" else expected
        np.testing.assert_allclose(group_problem(mixed, group, stay).similarity[name], expected, atol=1e-12)


def test_outer_spaces_share_in_what_is_seen_of_their_inner_ones() -> None:
    plan = make_plan(attention())
    shares = weight_shares(plan, 0.0, {"v": np.eye(12)})
    assert shares == {"s": 1.0, "h": 0.0, "qk": 1.0, "v": 0.0}


def test_single_inner_units_stand_for_their_outer_unit() -> None:
    plan = make_plan(depthwise_convolution())
    seen = {"i": np.eye(9), "o": np.zeros((9, 9))}
    found = known_activations(plan, seen)
    assert list(found) == ["g"]
    np.testing.assert_array_equal(found["g"], np.eye(9) / 2)


def test_what_is_not_told_from_one_is_one() -> None:
    """Of units woken by one sample all correlate by 1, whatever rounding makes of it: then signatures choose."""
    seen = np.full((5, 5), 0.5)
    seen[0] = [1.0, 0.9999994, 0.9999996, 0.99999, -0.9999996]
    found = known_activations(make_plan(depthwise_convolution()), {"g": np.pad(seen, (0, 4))})["g"]
    np.testing.assert_array_equal(found[0, :5], [1.0, 1.0, 1.0, 0.99999, -1.0])


def test_activations_of_another_size_are_an_error() -> None:
    with pytest.raises(StructureError, match="space qk: expected activation similarities of 15 x 15"):
        known_activations(make_plan(attention()), {"qk": np.eye(5)})
