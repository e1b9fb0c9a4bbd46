"""Rotations inside attention heads: where they are allowed, that nothing notices them, and that they are found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm

from onnxmerge.api import merge, permute
from onnxmerge.axes.linear_spaces import rotatable
from onnxmerge.errors import UsageError, ValidationError
from onnxmerge.matching.procrustes import procrustes, products
from onnxmerge.pipeline.prepare import Prepared, load, type_models
from onnxmerge.units.permutations import identity, random_permutations, transport
from onnxmerge.units.rotation import in_own_units, random_rotations, rotate, rotated
from onnxmerge.validation.rotation import certify_rotations
from tests.graphs import build, execute, normal

HEAD = """
    q0 = MatMul(x, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, split)  q3 = Transpose<perm=[0,2,1,3]>(q2)
    k0 = MatMul(x, wk)  k1 = Add(k0, bk)  k2 = Reshape(k1, split)
    v0 = MatMul(x, wv)  v2 = Reshape(v0, split)  v3 = Transpose<perm=[0,2,1,3]>(v2)
"""
SCORES = """
    k3 = Transpose<perm=[0,2,3,1]>(k2)
    s0 = MatMul(q3, k3)  s1 = Mul(s0, root)  s = Softmax<axis=-1>(s1)
"""
TAIL = """
    c0 = MatMul(s, v3)  c1 = Transpose<perm=[0,2,1,3]>(c0)  c = Reshape(c1, join)
    y0 = MatMul(c, wo)  y = Add(y0, bo)
"""
ATTENTION = f"(float[2,3,6] x) => (float[2,3,5] y) {{ {HEAD} {SCORES} {TAIL} }}"
CONSTANTS: dict[str, NDArray[Any]] = {
    "split": np.array([2, 3, 2, 4], np.int64),
    "join": np.array([2, 3, 8], np.int64),
    "root": np.array(0.5, np.float32),
}
X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)


def weights(seed: int = 0, more: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, NDArray[Any]]:
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("wq", "wk", "wv"), (6, 8)),
        **dict.fromkeys(("bq", "bk"), (8,)),
        "wo": (8, 5),
        "bo": (5,),
        **(more or {}),
    }
    rng = np.random.default_rng(seed)
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**drawn, **CONSTANTS}


def prepared(graph: str, own: Mapping[str, NDArray[Any]]) -> Prepared:
    return type_models(load([build(graph, own, opset=23, domains={"com.microsoft": 1})]), {"x": X}, None)


def found(graph: str, own: Mapping[str, NDArray[Any]]) -> list[int]:
    """The sizes of the spaces that may be rotated."""
    typed = prepared(graph, own)
    return [typed.typing.spaces[name].size for name in rotatable(typed.models.template.graph, typed.typing)]


def test_the_query_key_and_the_value_output_space_may_be_rotated() -> None:
    assert found(ATTENTION, weights()) == [4, 4]


SPLIT_QUERIES = "q3 = Transpose<perm=[0,2,1,3]>(q2)"
SPOILED: dict[str, tuple[str, str, str, dict[str, tuple[int, ...]]]] = {
    "a normalisation of queries": (
        HEAD.replace(SPLIT_QUERIES, "q9 = LayerNormalization(q2, gq)  q3 = Transpose<perm=[0,2,1,3]>(q9)"),
        SCORES,
        TAIL,
        {"gq": (4,)},
    ),
    "a scale for each unit of the queries": (
        HEAD.replace(SPLIT_QUERIES, "q9 = Mul(q2, gq)  q3 = Transpose<perm=[0,2,1,3]>(q9)"),
        SCORES,
        TAIL,
        {"gq": (4,)},
    ),
    "a nonlinearity on the keys": (
        HEAD.replace("k2 = Reshape(k1, split)", "k9 = Relu(k1)  k2 = Reshape(k9, split)"),
        SCORES,
        TAIL,
        {},
    ),
    "a shift of all keys by one number": (
        HEAD.replace("k2 = Reshape(k1, split)", "k9 = Add(k1, root)  k2 = Reshape(k9, split)"),
        SCORES,
        TAIL,
        {},
    ),
}


@pytest.mark.parametrize("why", SPOILED)
def test_what_sees_single_units_forbids_rotation_of_their_space_alone(why: str) -> None:
    head, scores, tail, more = SPOILED[why]
    graph = f"(float[2,3,6] x) => (float[2,3,5] y) {{ {head} {scores} {tail} }}"
    assert found(graph, weights(more=more)) == [4]


def test_a_nonlinearity_on_the_values_forbids_theirs() -> None:
    tail = TAIL.replace("c = Reshape(c1, join)", "c9 = Reshape(c1, join)  c = Gelu(c9)")
    graph = f"(float[2,3,6] x) => (float[2,3,5] y) {{ {HEAD} {SCORES} {tail} }}"
    assert found(graph, weights()) == [4]


def test_rotary_embedding_forbids_rotation_of_queries_and_keys() -> None:
    """Halves turned against each other by tables that depend on the position."""

    def turned(name: str, source: str) -> str:
        return f"""
            {name}a, {name}b = Split<axis=-1, num_outputs=2>({source})  {name}n = Neg({name}b)
            {name}r = Concat<axis=-1>({name}n, {name}a)
            {name}c = Mul({source}, cos)  {name}s = Mul({name}r, sin)  {name}z = Add({name}c, {name}s)"""

    head = HEAD.replace(SPLIT_QUERIES, turned("q", "q2") + "  q3 = Transpose<perm=[0,2,1,3]>(qz)")
    scores = turned("k", "k2") + SCORES.replace("(k2)", "(kz)")
    graph = f"(float[2,3,6] x) => (float[2,3,5] y) {{ {head} {scores} {TAIL} }}"
    assert found(graph, weights(more={"cos": (3, 1, 4), "sin": (3, 1, 4)})) == [4]


PROJECTIONS = "q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)"
FUSED: dict[str, tuple[str, dict[str, tuple[int, ...]], list[int]]] = {
    "MultiHeadAttention": (
        f"{PROJECTIONS} c = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, b)",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "b": (24,)},
        [4, 4],
    ),
    "packed": ("c = com.microsoft.Attention<num_heads=2>(x, w, b)", {"w": (6, 24), "b": (24,)}, [4, 4]),
    "Attention of ONNX": (
        f"{PROJECTIONS} c = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8)},
        [4, 4],
    ),
    "grouped queries": (
        f"{PROJECTIONS} c = com.microsoft.GroupQueryAttention<num_heads=1, kv_num_heads=1>(q, k, v, , , ends, total)",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8)},
        [8, 8],
    ),
    "one space of queries, keys and values": (
        """q = MatMul(x, wq)  k = MatMul(x, wk)
        c = com.microsoft.GroupQueryAttention<num_heads=1, kv_num_heads=1>(q, k, k, , , ends, total)""",
        {"wq": (6, 8), "wk": (6, 8)},
        [8],
    ),
    "grouped queries that share keys": (
        f"{PROJECTIONS} c = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , ends, total)",
        {"wq": (6, 32), "wk": (6, 16), "wv": (6, 16), "wo": (32, 5)},
        [8, 8],
    ),
    "packed queries that share keys": (
        """p = MatMul(x, wp)
        c = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(p, , , , , ends, total)""",
        {"wp": (6, 64), "wo": (32, 5)},
        [8, 8],
    ),
    "grouped queries that are turned": (
        f"""{PROJECTIONS} c = com.microsoft.GroupQueryAttention<num_heads=1, kv_num_heads=1, do_rotary=1>(
        q, k, v, , , ends, total, cos, sin)""",
        {"wq": (6, 16), "wk": (6, 16), "wv": (6, 16), "cos": (4, 8), "sin": (4, 8), "wo": (16, 5)},
        [16],
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_may_be_rotated_inside(name: str) -> None:
    nodes, shapes, sizes = FUSED[name]
    counts = {"ends": np.full(2, 2, np.int32), "total": np.array(3, np.int32)} if "total" in nodes else {}
    rng = np.random.default_rng(0)
    own = {key: rng.normal(size=shape).astype(np.float32) for key, shape in {"wo": (8, 5), **shapes}.items()}
    job = prepared(f"(float[2,3,6] x) => (float[2,3,5] y) {{ {nodes} y = MatMul(c, wo) }}", {**own, **counts})
    names = rotatable(job.models.template.graph, job.typing)
    assert [job.typing.spaces[each].size for each in names] == sizes
    settings: dict[str, Any] = {"weights": {**own, **counts}, "seed": 0, "provider": "cpu"}
    certify_rotations(job.typing, job.trace, names, **settings)


def test_hidden_units_before_a_nonlinearity_are_only_permuted() -> None:
    graph = "(float[2,3,6] x) => (float[2,3,5] y) { h = MatMul(x, w1)  r = Relu(h)  y = MatMul(r, w2) }"
    assert found(graph, normal(w1=(6, 7), w2=(7, 5))) == []
    linear = "(float[2,3,6] x) => (float[2,3,5] y) { h = MatMul(x, w1)  y = MatMul(h, w2) }"
    assert found(linear, normal(w1=(6, 7), w2=(7, 5))) == [7]


def test_a_random_rotation_of_each_head_leaves_the_function_as_it_is() -> None:
    own = weights()
    job = prepared(ATTENTION, own)
    names = rotatable(job.models.template.graph, job.typing)
    turned = dict(rotated(own, job.typing, random_rotations(job.typing.spaces, names, 1)))
    assert {name for name in own if not np.allclose(own[name], turned[name])} == {"wq", "wk", "wv", "bq", "bk", "wo"}
    after = execute(build(ATTENTION, turned), {"x": X})["y"]
    np.testing.assert_allclose(after, execute(build(ATTENTION, own), {"x": X})["y"], rtol=1e-4, atol=1e-4)


def test_the_certificate_finds_a_space_that_must_not_be_rotated() -> None:
    job = prepared(ATTENTION, weights())
    template, typing = job.models.template, job.typing
    names = rotatable(template.graph, typing)
    settings: dict[str, Any] = {"weights": template.weights, "seed": 0, "provider": "cpu"}
    certify_rotations(typing, job.trace, names, **settings)
    graph, own = (
        "(float[2,3,6] x) => (float[2,3,5] y) { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }",
        normal(a=(6, 7), b=(7, 5)),
    )
    other = prepared(graph, own)
    (hidden,) = [space.id for space in other.typing.spaces.values() if space.free]
    with pytest.raises(ValidationError, match=f"space {hidden} changes the outputs"):
        certify_rotations(other.typing, other.trace, [hidden], **{**settings, "weights": own})


def test_procrustes_finds_the_rotation_back() -> None:
    own = weights()
    job = prepared(ATTENTION, own)
    names = rotatable(job.models.template.graph, job.typing)
    turned = rotated(own, job.typing, random_rotations(job.typing.spaces, names, 2))
    back = {name: procrustes(products(own, turned, job.typing, name)) for name in names}
    again = rotated(turned, job.typing, back)
    for name in own:
        np.testing.assert_allclose(again[name], own[name], atol=1e-5)


def test_rotations_go_through_permutations() -> None:
    own = weights()
    typing = prepared(ATTENTION, own).typing
    names = rotatable(prepared(ATTENTION, own).models.template.graph, typing)
    perms = random_permutations(typing.spaces, 5)
    rotations = random_rotations(typing.spaces, names, 6)
    before = rotated(own, typing, in_own_units(rotations, typing.spaces, perms))
    for name, layout in typing.initializers.items():
        moved = transport(own[name], layout, typing.spaces, perms)
        expected = rotate(moved, layout, typing.spaces, rotations)
        np.testing.assert_allclose(transport(before[name], layout, typing.spaces, perms), expected, atol=1e-5)
    still = in_own_units(rotations, typing.spaces, identity(typing.spaces))
    assert all(np.array_equal(still[name], rotations[name]) for name in names)


@pytest.mark.parametrize("method", ["rebasin", "act-align", "mudsc-align"])
def test_a_rotated_and_permuted_copy_merges_into_the_model(tmp_path: Path, method: str) -> None:
    """Permutations alone cannot undo a rotation. The rotation is small enough for the matching to see through."""
    own = weights()
    job = prepared(ATTENTION, own)
    names = rotatable(job.models.template.graph, job.typing)
    size = {name: rotation.shape for name, rotation in random_rotations(job.typing.spaces, names, 0).items()}
    rng = np.random.default_rng(3)
    skew = {name: 0.15 * rng.standard_normal(shape) for name, shape in size.items()}
    small = {name: expm(each - np.swapaxes(each, -1, -2)) for name, each in skew.items()}
    turned = build(ATTENTION, dict(rotated(own, job.typing, small)))
    copy = onnx.load(permute(turned, seed=4).save(tmp_path / "copy.onnx"))
    data = {"x": np.random.default_rng(1).normal(size=(60, 2, 3, 6)).astype(np.float32)}
    expected = execute(build(ATTENTION, own), {"x": X})["y"]
    errors = []
    for rotate_too in (False, True):
        result = merge(
            [build(ATTENTION, own), copy],
            calibration=[{"x": feed} for feed in data["x"]],
            method=method,
            repair="none",
            rotate=rotate_too,
        )
        merged = onnx.load(result.save(tmp_path / f"{rotate_too}.onnx"))
        errors.append(float(np.abs(execute(merged, {"x": X})["y"] - expected).max()))
        assert len(result.report.rotated) == (2 if rotate_too else 0)
    assert errors[0] > 0.01
    assert errors[1] < 1e-4


def test_repair_measures_rotated_units_anew(tmp_path: Path) -> None:
    own = weights()
    job = prepared(ATTENTION, own)
    names = rotatable(job.models.template.graph, job.typing)
    angle = 0.2
    plane = np.eye(4)
    plane[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = build(ATTENTION, dict(rotated(own, job.typing, {name: np.stack([plane, plane]) for name in names})))
    data = np.random.default_rng(1).normal(size=(60, 2, 3, 6)).astype(np.float32)
    result = merge(
        [build(ATTENTION, own), turned],
        calibration=[{"x": feed} for feed in data],
        method="rebasin",
        repair="repair",
        rotate=True,
    )
    merged = onnx.load(result.save(tmp_path / "m.onnx"))
    np.testing.assert_allclose(
        execute(merged, {"x": X})["y"], execute(build(ATTENTION, own), {"x": X})["y"], rtol=1e-3, atol=1e-3
    )


def test_zips_do_not_rotate() -> None:
    pair = [build(ATTENTION, weights(seed)) for seed in (0, 1)]
    with pytest.raises(UsageError, match="--rotate takes matched units"):
        merge(pair, calibration=[{"x": X}], method="zipit", rotate=True)


@pytest.mark.parametrize("name", ["a.onnx", "a.ts.onnx"])
def test_a_vit_has_two_such_spaces_in_every_block(shared: Path, name: str) -> None:
    job = type_models(load([shared / "pairs" / "cifar5-vit" / name]), None, None)
    spaces = rotatable(job.models.template.graph, job.typing)
    assert [job.typing.spaces[space].size for space in spaces] == [32] * 8
    certify_rotations(job.typing, job.trace, spaces, weights=job.models.weights[0], seed=1, provider="cpu")
