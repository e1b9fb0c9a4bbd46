"""Low-rank branches become part of the weight beside them, where nothing else reads what is on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import onnxmerge
from onnxmerge import InputError, ValidationError
from onnxmerge.model.fold import Branch, fold_branches
from onnxmerge.model.read import read_network
from tests.graphs import build, execute, normal

HALF = {"s": np.array(0.5, np.float32)}
LINEAR = normal(w=(6, 8), c=(8,), a=(6, 2), b=(2, 8), v=(8, 3)) | HALF
TURNED = normal(w=(8, 6), c=(8,), a=(2, 6), b=(8, 2), v=(8, 3)) | HALF
CONV = normal(w=(8, 3, 3, 3), c=(8,), a=(2, 3, 3, 3), b=(8, 2, 1, 1)) | HALF
X = "(float[n,6] x) => (float[n,3] y) { "
IMAGE = "(float[n,3,5,5] x) => (float[n,8,h,k] y) { "
END = " r = Relu(t) y = MatMul(r, v) }"

FOLDED = {
    "scaled behind": (
        X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) z = Mul(q, s) t = Add(h, z)" + END,
        LINEAR,
    ),
    "scaled between": (
        X + "h = MatMul(x, w) p = MatMul(x, a) z = Mul(s, p) q = MatMul(z, b) t = Add(q, h)" + END,
        LINEAR,
    ),
    "scaled before": (
        X + "z = Mul(x, s) h = MatMul(x, w) p = MatMul(z, a) q = MatMul(p, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "divided": (X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) z = Div(q, s) t = Add(h, z)" + END, LINEAR),
    "not scaled": (X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) t = Add(h, q)" + END, LINEAR),
    "a bias before": (
        X + "m = MatMul(x, w) h = Add(m, c) p = MatMul(x, a) q = MatMul(p, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "a bias behind": (
        X + "m = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) h = Add(m, q) t = Add(h, c)" + END,
        LINEAR,
    ),
    "Gemm": (
        X
        + "h = Gemm<transB=1, alpha=2.0>(x, w, c) p = Gemm<transB=1>(x, a) q = Gemm<transB=1, alpha=0.25>(p, b)"
        + " t = Add(h, q)"
        + END,
        TURNED,
    ),
    "a sum": (X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) t = Sum(h, q)" + END, LINEAR),
    "copies": (
        X + "i = Identity(x) h = MatMul(x, w) p = MatMul(i, a) d = Dropout(p) q = MatMul(d, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "one input, scaled": (
        X + "z = Mul(x, s) h = MatMul(z, w) p = MatMul(z, a) q = MatMul(p, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "casts": (
        X + "e = Cast<to=11>(x) p = MatMul(e, a) q = MatMul(p, b) z = Cast<to=1>(q) h = MatMul(x, w)"
        " t = Add(h, z)" + END,
        LINEAR | {name: LINEAR[name].astype(np.float64) for name in ("a", "b")},
    ),
    "a convolution": (
        IMAGE
        + "h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, c) p = Conv<pads=[1,1,1,1], strides=[2,2]>(x, a)"
        + " q = Conv(p, b) z = Mul(q, s) y = Add(h, z) }",
        CONV,
    ),
}

LEFT = {
    "the low-rank values are read elsewhere": (
        "(float[n,6] x) => (float[n,3] y, float[n,2] p) { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b)"
        " t = Add(h, q)" + END,
        LINEAR,
    ),
    "the base is read elsewhere": (
        X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) g = Add(h, q) t = Mul(g, h)" + END,
        LINEAR,
    ),
    "the weight is read twice": (
        X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) g = Add(h, q) k = MatMul(x, w) t = Mul(g, k)" + END,
        LINEAR,
    ),
    "another input": (
        X + "e = Relu(x) h = MatMul(x, w) p = MatMul(e, a) q = MatMul(p, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "something between": (
        X + "h = MatMul(x, w) p = MatMul(x, a) e = Relu(p) q = MatMul(e, b) t = Add(h, q)" + END,
        LINEAR,
    ),
    "no low rank": (
        X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) t = Add(h, q)" + END,
        LINEAR | normal(a=(6, 7), b=(7, 8)),
    ),
    "a difference": (X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) t = Sub(h, q)" + END, LINEAR),
    "a bias in the branch": (
        X + "h = MatMul(x, w) p = MatMul(x, a) e = Gemm(p, b, c) t = Add(h, e)" + END,
        LINEAR,
    ),
    "other windows": (
        IMAGE + "h = Conv<pads=[1,1,1,1]>(x, w, c) p = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, a)"
        " q = Conv(p, b) y = Add(h, q) }",
        CONV,
    ),
}


def sample(graph: str) -> dict[str, np.ndarray]:
    shape = (3, 3, 5, 5) if "[n,3,5,5]" in graph else (3, 6)
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", FOLDED)
def test_folded(name: str) -> None:
    graph, weights = FOLDED[name]
    model = build(graph, weights)
    result = onnxmerge.fold(model)
    assert result.ranks == (2,)
    assert result.error < 1e-5
    read = read_network(model)
    linear = ("MatMul", "Gemm", "Conv")
    counts = [sum(node.op_type in linear for node in each.graph) for each in (read, result.network)]
    assert counts[1] == counts[0] - 2
    assert not {"a", "b", "p", "q"} & set(result.network.graph.initializers)


@pytest.mark.parametrize("name", LEFT)
def test_left(name: str) -> None:
    graph, weights = LEFT[name]
    network = read_network(build(graph, weights))
    nodes = len(network.graph)
    assert fold_branches(network).branches == ()
    assert len(network.graph) == nodes
    with pytest.raises(InputError, match=r"nothing to fold|is not of the form that can be folded"):
        onnxmerge.fold(build(graph, weights))


def test_several_branches_beside_one_layer() -> None:
    graph = (
        X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) g = Add(h, q)"
        " p2 = MatMul(x, a2) q2 = MatMul(p2, b2) t = Add(g, q2)" + END
    )
    model = build(graph, LINEAR | normal(a2=(6, 3), b2=(3, 8), seed=5))
    result = onnxmerge.fold(model)
    assert sorted(result.ranks) == [2, 3]
    wanted = LINEAR["w"].astype(np.float64) + LINEAR["a"] @ LINEAR["b"]
    extra = normal(a2=(6, 3), b2=(3, 8), seed=5)
    np.testing.assert_allclose(result.weights["w"], wanted + extra["a2"] @ extra["b2"], rtol=1e-5, atol=1e-6)


def test_the_output_keeps_its_name() -> None:
    graph = "(float[n,6] x) => (float[n,8] y) { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) y = Add(h, q) }"
    model = build(graph, LINEAR)
    result = onnxmerge.fold(model)
    assert [value.name for value in result.network.graph.outputs] == ["y"]
    given = sample(graph)
    own = given["x"] @ result.weights["w"]
    np.testing.assert_allclose(own, execute(model, given)["y"], rtol=1e-4, atol=1e-5)


def test_a_branch_beside_a_factor_of_another() -> None:
    graph = (
        X + "h = MatMul(x, w) p1 = MatMul(x, a) i = MatMul(x, d) j = MatMul(i, e) p = Add(p1, j)"
        " q = MatMul(p, b) t = Add(h, q)" + END
    )
    sizes = normal(w=(6, 9), a=(6, 4), b=(4, 9), d=(6, 2), e=(2, 4), v=(9, 3))
    result = onnxmerge.fold(build(graph, sizes))
    assert result.ranks == (2, 4)
    wanted = sizes["w"] + (sizes["a"] + sizes["d"] @ sizes["e"]) @ sizes["b"]
    np.testing.assert_allclose(result.weights["w"], wanted, rtol=1e-5, atol=1e-5)
    assert list(result.weights) == ["w"]


def test_a_branch_that_ends_in_a_body_is_left() -> None:
    body = (
        "then_branch = then () => (float[n,8] u) { u = Add(h, q) }, "
        "else_branch = other () => (float[n,8] o) { o = Identity(h) }"
    )
    graph = (
        "(float[n,6] x, bool k) => (float[n,8] y) { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b)"
        f" y = If <{body}> (k) }}"
    )
    assert fold_branches(read_network(build(graph, LINEAR))).branches == ()


def test_what_is_left_is_named() -> None:
    graph = (
        "(float[n,6] x) => (float[n,3] y, float[n,2] p) { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b)"
        " g = Add(h, q) k = MatMul(x, w2) p2 = MatMul(x, a2) q2 = MatMul(p2, b2) l = Add(k, q2) t = Add(g, l)" + END
    )
    result = onnxmerge.fold(build(graph, LINEAR | normal(w2=(6, 8), a2=(6, 3), b2=(3, 8))))
    assert result.ranks == (3,)
    (left,) = result.left
    assert left.startswith("the branch of rank 2 at node")


def wrongly(times: float, rank: int) -> Callable[..., tuple[NDArray[Any], NDArray[Any]]]:
    """What takes the place of ``Branch.factors``: branches of this rank are multiplied."""
    right = Branch.factors

    def factors(own: Branch, *given: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        left, rest = right(own, *given)
        return left * (times if own.rank == rank else 1.0), rest

    return factors


TWO = X + "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) g = Add(h, q) p2 = MatMul(x, a2) q2 = MatMul(p2, b2) "
BEHIND = {
    "a small branch": (X + "h = MatMul(x, w) p = MatMul(x, a2) q = MatMul(p, b2) t = Add(h, q)" + END, 1e-4),
    "a large branch": (X + "h = MatMul(x, w) p = MatMul(x, a2) q = MatMul(p, b2) t = Add(h, q)" + END, 1.0),
    "one that another hides": (TWO + "t = Add(g, q2)" + END, 1e-4),
    "a bias between": (TWO + "k = Add(g, c) t = Add(k, q2)" + END, 1e-4),
    "small numbers": (
        X + "z = Mul(x, tiny) h = MatMul(z, w) p = MatMul(z, a2) q = MatMul(p, b2) t = Add(h, q)" + END,
        1.0,
    ),
    "classes": (
        X.replace("float[n,3] y", "int64[n] y")
        + "h = MatMul(x, w) p = MatMul(x, a2) q = MatMul(p, b2) t = Add(h, q) y = ArgMax<axis=1, keepdims=0>(t) }",
        1.0,
    ),
    "a unit that is off": (
        X + "h = MatMul(x, w) p = MatMul(x, a2) q = MatMul(p, b2) l = Add(h, q) m = Mul(l, zero) t = Add(m, c)" + END,
        1.0,
    ),
}


@pytest.mark.parametrize("times", [-1.0, -100.0, 0.0, 2.0])
@pytest.mark.parametrize("name", BEHIND)
def test_a_wrong_fold_is_found_out_wherever_it_hides(name: str, times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, size = BEHIND[name]
    more = normal(a2=(6, 3), b2=(3, 8), seed=7)
    tiny = {"tiny": np.array(1e-20, np.float32), "zero": np.array(0.0, np.float32)}
    model = build(graph, LINEAR | tiny | more | {"b2": more["b2"] * np.float32(size)})
    assert 3 in onnxmerge.fold(model).ranks
    monkeypatch.setattr(Branch, "factors", wrongly(times, 3))
    with pytest.raises(ValidationError, match=r"node 'MatMul_?0?' .*computes something else"):
        onnxmerge.fold(model)


@pytest.mark.parametrize("size", [1.0, 8e-3, 1e-4])
def test_a_factor_that_is_a_layer_of_its_own_is_left_as_it_is(size: float) -> None:
    graph = (
        "(float[n,8] x, float[n,8] v) => (float[n,6] y, float[n,4] q) { h = MatMul(x, w) d = MatMul(x, a)"
        " u = MatMul(d, b) y = Add(h, u) h2 = MatMul(v, a) d2 = MatMul(v, a2) u2 = MatMul(d2, b2) q = Add(h2, u2) }"
    )
    more = normal(a2=(8, 2), b2=(2, 4), seed=3)
    weights = normal(w=(8, 6), a=(8, 4), b=(4, 6))
    result = onnxmerge.fold(build(graph, weights | {name: array * np.float32(size) for name, array in more.items()}))
    assert result.ranks == (4,)
    assert len(result.left) == 1
    np.testing.assert_allclose(result.weights["w"], weights["w"] + weights["a"] @ weights["b"], rtol=1e-5, atol=1e-6)


def test_a_branch_of_nothing_is_folded() -> None:
    graph, weights = FOLDED["scaled behind"]
    for nothing in ({"s": np.array(0.0, np.float32)}, {"b": np.zeros((2, 8), np.float32)}):
        result = onnxmerge.fold(build(graph, weights | nothing))
        np.testing.assert_array_equal(result.weights["w"], weights["w"])


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_old_opsets_add_zeros(opset: int) -> None:
    graph = X + "h = Gemm(x, w, c) p = Gemm(x, a, n2) q = Gemm(p, b, n8) t = Add(h, q)" + END
    zeros = {"n2": np.zeros(2, np.float32), "n8": np.zeros(8, np.float32)}
    model = build(graph, LINEAR | zeros, opset=opset)
    assert onnxmerge.fold(model).ranks == (2,)


def test_a_sample_that_shows_nothing_proves_nothing() -> None:
    graph, weights = FOLDED["not scaled"]
    with pytest.raises(ValidationError, match="give another by --input"):
        onnxmerge.fold(build(graph, weights), inputs={"x": np.zeros((4, 6), np.float32)})


def test_a_weight_that_leaves_its_type() -> None:
    graph = "(float16[n,6] x) => (float16[n,8] y) { h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) y = Add(h, q) }"
    weights = {name: LINEAR[name].astype(np.float16) for name in ("w", "a", "b")}
    weights["w"][0, 0], weights["a"][0, 0], weights["b"][0, 0] = 6e4, 200, 200
    with pytest.raises(InputError, match="leaves the range of float16"):
        onnxmerge.fold(build(graph, weights))
