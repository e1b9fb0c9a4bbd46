"""Networks pair up by structure alone, and a refusal says exactly where they part."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from onnxmerge.errors import InputError, StructureError
from onnxmerge.model import ModelSet, open_session, pair, read_network, structure, synthesize
from tests import graphs
from tests.graphs import normal
from tests.model.scramble import scramble

CNN = """(float[n,3,8,8] x) => (float[n,5] y) {
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(x, k, kb)
    r = Relu(c)
    d = Conv(r, l)
    s = Add(d, shift)
    p = GlobalAveragePool(s)
    f = Reshape(p, target)
    y = Gemm<transB=1>(f, w, b)
}"""
CNN_SHAPES: dict[str, Any] = {
    "k": (4, 3, 3, 3),
    "kb": (4,),
    "l": (6, 4, 3, 3),
    "shift": (1, 6, 1, 1),
    "w": (5, 6),
    "b": (5,),
}


Weights = dict[str, ArrayLike]


def build(graph: str, weights: Mapping[str, ArrayLike] | None = None, **options: Any) -> onnx.ModelProto:
    """A model whose outputs may be written without their types."""
    return graphs.build(graph, weights, check=False, **options)


def cnn(seed: int = 0, graph: str = CNN, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    return build(graph, {**normal(seed=seed, **(CNN_SHAPES | shapes)), "target": [-1, 6]})


def matched(*models: onnx.ModelProto | Path) -> ModelSet:
    """Pair models up and check what must hold of every set: with its weights the template does what each model does."""
    networks = [read_network(model) for model in models]
    found = pair(networks)
    assert found.sources == tuple(networks)
    assert all(set(weights) == set(found.template.graph.initializers) for weights in found.weights)
    assert found.template.sha256 == networks[0].sha256
    assert found.template.label == networks[0].label
    feeds = synthesize(found.template)
    for network, weights in zip(networks, found.weights, strict=True):
        names = [value.name or "" for value in network.graph.inputs]
        expected = open_session(network.model).run(dict(zip(names, feeds.values(), strict=True)))
        results = open_session(found.template.model, weights=weights).run(feeds)
        for ours, theirs in zip(results.values(), expected.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    return found


def refused(one: onnx.ModelProto, other: onnx.ModelProto) -> str:
    """What is said of two models that differ, without their names."""
    with pytest.raises(StructureError) as caught:
        pair([read_network(one), read_network(other)])
    head, _, reason = str(caught.value).partition(" differ in structure: ")
    assert head == "model 'g' and model 'g'"
    assert "\n" not in reason
    return reason


def test_equal_models_keep_their_names() -> None:
    found = matched(cnn(0), cnn(1), cnn(2))
    assert set(found.weights[0]) == {*CNN_SHAPES, "target"}
    assert not np.array_equal(found.weights[0]["k"], found.weights[1]["k"])


def test_nothing_to_pair() -> None:
    with pytest.raises(InputError, match="no networks"):
        pair([])


@pytest.mark.parametrize("seed", range(5))
def test_names_orders_and_copies_do_not_matter(seed: int) -> None:
    matched(cnn(0), scramble(cnn(1), seed))
    matched(scramble(cnn(1), seed), cnn(0))


def test_defaults_may_be_written_or_left_out() -> None:
    full = CNN.replace("Conv(r, l)", 'Conv<auto_pad="NOTSET", dilations=[1,1], group=1, pads=[0,0,0,0]>(r, l)')
    valid = CNN.replace("Conv(r, l)", 'Conv<auto_pad="VALID", kernel_shape=[3,3]>(r, l)')
    gemm = CNN.replace("Gemm<transB=1>", "Gemm<alpha=1.0, transA=0, transB=1>")
    matched(cnn(), cnn(1, full), cnn(2, valid), cnn(3, gemm))


def test_opsets_may_differ_where_the_operators_mean_the_same() -> None:
    graph = "(float[n,3] x) => (y) {{ m = MatMul(x, w)  y = {}(m) }}"
    old, new = (build(graph.format("Relu"), normal(w=(3, 3)), opset=opset) for opset in (9, 21))
    matched(old, new)
    old, new = (build(graph.format("Softmax<axis=-1>"), normal(w=(3, 3)), opset=opset) for opset in (9, 21))
    assert (
        refused(old, new)
        == "node 'Softmax' (Softmax) against node 'Softmax' (Softmax): the operator changed its meaning at opset 13"
    )


def test_dropout_is_looked_through() -> None:
    dropped = CNN.replace("Relu(c)", "Relu(c)  q, mask = Dropout(r, ratio, training)").replace(
        "Conv(r, l)", "Conv(q, l)"
    )
    model = cnn(1, dropped)
    model.graph.initializer.extend(
        [graphs.tensor("ratio", np.float32(0.5)), graphs.tensor("training", np.zeros((), np.bool_))]
    )
    matched(cnn(), model)
    matched(model, cnn())


def test_twins_are_told_apart_by_what_becomes_of_them() -> None:
    # The product of two complex numbers: every one of a, b, c, d is computed alike.
    graph = """(float[n,4] x) => (re, im) {
        a = MatMul(x, wa)  b = MatMul(x, wb)  c = MatMul(x, wc)  d = MatMul(x, wd)
        ac = Mul(a, c)  bd = Mul(b, d)  ad = Mul(a, d)  bc = Mul(b, c)
        re = Sub(ac, bd)  im = Add(ad, bc)
    }"""
    shapes: dict[str, Any] = {"wa": (4, 3), "wb": (4, 3), "wc": (4, 3), "wd": (4, 3)}
    for seed in range(12):
        matched(build(graph, normal(**shapes)), scramble(build(graph, normal(seed=1, **shapes)), seed))


def test_one_network_alone_is_untied_too() -> None:
    found = matched(
        build(
            "(float[n,3] x) => (y) { a = Mul(x, ones)  b = Relu(a)  y = Mul(b, ones) }",
            {"ones": np.ones(3, np.float32)},
        )
    )
    assert set(found.weights[0]) == {"ones", "ones_1"}


TWO_LAYERS = "(float[n,3] x) => (y) {{ a = MatMul(x, {})  b = Relu(a)  y = MatMul(b, {}) }}"


def test_sharing_by_all_stays() -> None:
    shared = TWO_LAYERS.format("w", "w")
    found = matched(build(shared, normal(w=(3, 3))), build(shared, normal(w=(3, 3), seed=1)))
    assert set(found.weights[0]) == {"w"}


def test_sharing_by_some_is_undone() -> None:
    shared, apart = TWO_LAYERS.format("w", "w"), TWO_LAYERS.format("w", "v")
    tied, free = build(shared, normal(w=(3, 3))), build(apart, normal(w=(3, 3), v=(3, 3), seed=1))
    found = matched(tied, free)
    assert set(found.weights[0]) == {"w", "w_1"}
    np.testing.assert_array_equal(found.weights[0]["w"], found.weights[0]["w_1"])
    np.testing.assert_array_equal(found.weights[1]["w_1"], read_network(free).weights["v"])
    assert set(matched(free, tied).weights[1]) == {"w", "v"}
    assert set(matched(tied, tied, free).weights[0]) == {"w", "w_1"}


def test_untied_initializers_take_the_name_of_the_copy_that_was_read() -> None:
    tied = build(
        "(float[n,3] x) => (y) { v = Identity(w)  a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }", normal(w=(3, 3))
    )
    free = build(TWO_LAYERS.format("w", "v"), normal(w=(3, 3), v=(3, 3), seed=1))
    found = matched(tied, free)
    assert set(found.weights[0]) == {"w", "v"}
    assert "Identity" not in {node.op_type for node in found.template.graph}
    assert set(matched(tied, tied).weights[0]) == {"w"}


def test_uniform_initializers_are_untied_even_if_all_share_them() -> None:
    graph = "(float[n,3] x) => (y) { a = Mul(x, s)  b = MatMul(a, w)  y = Mul(b, s) }"
    ones = {**normal(w=(3, 3)), "s": np.ones(3, np.float32)}
    assert set(matched(build(graph, ones), build(graph, ones)).weights[0]) == {"w", "s", "s_1"}
    trained = {**ones, "s": np.arange(3, dtype=np.float32)}
    assert set(matched(build(graph, ones), build(graph, trained)).weights[0]) == {"w", "s"}
    scalar: Weights = {**ones, "s": np.float32(2)}
    assert set(matched(build(graph, scalar), build(graph, scalar)).weights[0]) == {"w", "s"}


def test_what_one_computes_once_another_may_compute_twice() -> None:
    once = "(float[n,3] x) => (y) { a = MatMul(x, w)  b = Relu(a)  c = Sigmoid(a)  y = Add(b, c) }"
    twice = "(float[n,3] x) => (y) { a = MatMul(x, w)  q = MatMul(x, v)  b = Relu(a)  c = Sigmoid(q)  y = Add(b, c) }"
    one, w = build(once, normal(w=(3, 3))), normal(w=(3, 3))["w"]
    equal = build(twice, {"w": w, "v": w})
    assert set(matched(equal, one).weights[0]) == {"w", "v"}
    assert set(matched(one, equal).weights[0]) == {"w"}
    different = build(twice, {"w": w, "v": -w})
    assert set(matched(different, one).weights[1]) == {"w", "v"}
    assert refused(one, different) == (
        "node 'MatMul' (MatMul) uses 'w' where the other computes twice, with 'w' and 'v'"
    )


def test_bodies_are_part_of_the_structure() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,4] y) {{
        y = If<
            then_branch = a () => (float[n,4] t) {{ t = Mul(x, w) }},
            else_branch = b () => (float[n,4] e) {{ f = {}(x)  e = Add(f, v) }}
        >(c)
    }}"""
    one, other = (build(graph.format("Neg"), normal(w=(4,), v=(4,), seed=seed)) for seed in (0, 1))
    matched(one, scramble(other, copies=False))
    assert (
        refused(one, build(graph.format("Abs"), normal(w=(4,), v=(4,)))) == "node 'Neg' (Neg) against node 'Abs' (Abs)"
    )
    captured = graph.format("Neg").replace("Add(f, v)", "Add(f, x)").replace("Mul(x, w)", "Mul(x, v)")
    assert "node 'Add' (Add) against node 'Add' (Add): it reads initializer 'v' of FLOAT[4] against 'x'" in refused(
        one, build(captured, normal(v=(4,)))
    )


def test_quantised_weights_compare_by_shape() -> None:
    graph = "(float[n,4] x) => (y) { w = DequantizeLinear(q, s, z)  h = MatMul(x, w)  y = Reshape(h, t) }"
    first, second = (
        build(graph, {"q": np.full((4, 3), n, np.int8), "s": np.float32(n), "z": np.int8(n), "t": [-1]}) for n in (1, 2)
    )
    assert (matched(first, second).weights[1]["q"] == 2).all()


def change(old: str, new: str, **shapes: tuple[int, ...]) -> str:
    assert old in CNN
    return refused(cnn(), cnn(1, CNN.replace(old, new), **shapes))


def test_refusals_name_the_first_difference() -> None:
    conv, other = "node 'Conv' (Conv) against node 'Conv' (Conv)", "node 'Conv_1' (Conv) against node 'Conv_1' (Conv)"
    assert change("Relu(c)", "Sigmoid(c)") == "node 'Relu' (Relu) against node 'Sigmoid' (Sigmoid)"
    assert change("(x, k, kb)", "(x, k)") == f"{conv}: 3 operands against 2"
    assert (
        change("Conv(r, l)", "Conv<strides=[2,2]>(r, l)")
        == f"{other}: attribute 'strides' is its default against [2, 2]"
    )
    assert change("Gemm<transB=1>", "Gemm<transB=1, alpha=0.5>") == (
        "node 'Gemm' (Gemm) against node 'Gemm' (Gemm): attribute 'alpha' is 1.0 against 0.5"
    )
    assert change("Relu(c)", "Relu(c)", k=(8, 3, 3, 3), kb=(8,), l=(6, 8, 3, 3)) == (
        f"{conv}: it reads initializer 'k' of FLOAT[4,3,3,3] against initializer 'k' of FLOAT[8,3,3,3]"
    )
    assert change("s = Add(d, shift)", "s = Add(d, x)") == (
        "node 'Add' (Add) against node 'Add' (Add): it reads initializer 'shift' of FLOAT[1,6,1,1] against 'x'"
    )
    assert change("r = Relu(c)", "q = Relu(c)  r = Relu(q)") == "node 'Conv_1' (Conv) against node 'Relu_1' (Relu)"


def test_refusals_of_inputs_outputs_and_constants() -> None:
    assert change("float[n,3,8,8]", "float[7,3,8,8]") == "input 'x' is FLOAT[dynamic,3,8,8] against 'x', FLOAT[7,3,8,8]"
    assert change("float[n,3,8,8] x", "float16[n,3,8,8] x") == (
        "input 'x' is FLOAT[dynamic,3,8,8] against 'x', FLOAT16[dynamic,3,8,8]"
    )
    assert change("(float[n,5] y)", "(float[n,5] y, float[n,6] f)") == "1 outputs ('y') against 2 ('y', 'f')"
    other = cnn(1)
    other.graph.initializer[-1].CopyFrom(graphs.tensor("target", [1, -1]))
    assert refused(cnn(), other) == (
        "node 'Reshape' (Reshape) against node 'Reshape' (Reshape): "
        "initializer 'target' of INT64[2] holds [-1, 6] against [1, -1] in initializer 'target' of INT64[2]"
    )
    assert refused(build("(float[n] x) => (y, z) { y = Relu(x)  z = Neg(x) }"),
                   build("(float[n] x) => (y, z) { z = Relu(x)  y = Neg(x) }")) == (
        "output 0 is 'y' of node 'Relu' (Relu) against 'y' of node 'Neg' (Neg)"
    )  # fmt: skip
    assert refused(
        build("(float[n] x) => (y) { y = Relu(x) }"), build("(float[n] x) => (y) { r = Relu(x)  y = Neg(r) }")
    ) == ("nothing corresponds to node 'Neg' (Neg)")


def test_time_grows_with_the_network_and_no_stack_overflows() -> None:
    def deep(layers: int, seed: int) -> onnx.ModelProto:
        steps = "".join(
            f"a{i} = MatMul(h{i}, w)  b{i} = Relu(a{i})  h{i + 1} = Add(b{i}, h{i}) " for i in range(layers)
        )
        graph = f"(float[n,2] h0) => (y) {{ {steps} y = Relu(h{layers}) }}"
        return build(graph, normal(seed=seed, w=(2, 2)))

    def calls(layers: int) -> int:
        """How many functions are called to pair two networks up."""
        one, other = read_network(deep(layers, 0)), read_network(scramble(deep(layers, 1), 1, copies=False))
        counted = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event in {"call", "c_call"}

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            found = pair([one, other])
        finally:
            sys.setprofile(before)
        assert list(found.weights[1]) == ["w"]
        return counted

    assert calls(300) < 2.5 * calls(150)
    deepest = deep(1200, 0)  # deeper than Python's stack
    assert list(pair([read_network(deepest), read_network(deepest)]).weights[1]) == ["w"]


def exports(shared: Path) -> list[tuple[Path, Path]]:
    firsts = sorted((shared / "pairs").glob("*/a*.onnx"))
    return [(first, first.with_name(f"b{first.name[1:]}")) for first in firsts]


@pytest.mark.parametrize("which", ["first", pytest.param("other", marks=pytest.mark.slow)])
def test_pairs_of_one_exporter_pair_up_however_they_are_scrambled(which: str, shared: Path) -> None:
    """The first export of each pair, and the others."""
    every = [pair for pair in exports(shared) if (pair[0].name == "a.onnx") == (which == "first")]
    assert every
    for first, second in every:
        ordered = matched(first, second)
        found = matched(first, scramble(onnx.load(second), copies=False))
        for name, array in ordered.weights[1].items():
            np.testing.assert_array_equal(found.weights[1][name], array)


def test_kept_and_folded_batchnorm_are_refused(shared: Path) -> None:
    folder = shared / "pairs" / "cifar5-resnet20"
    with pytest.raises(StructureError) as caught:
        pair([read_network(folder / "a.onnx"), read_network(folder / "b.folded.onnx")])
    assert str(caught.value) == (
        f"{folder / 'a.onnx'} and {folder / 'b.folded.onnx'} differ in structure: "
        "node '/conv1/Conv' (Conv) against node 'node_Conv_306' (Conv): 2 operands against 3"
    )


ALIKE = ("acasxu", "atspm_pair", "ppocr3_det", "safenlp", "silero_vad", "tll16", "wake27", "wake27zh")


@pytest.mark.slow
def test_families_pair_up(shared: Path) -> None:
    corpus = shared / "corpus"
    for family in ALIKE:
        matched(*sorted(corpus.glob(f"fam_{family}__*.onnx")))
    for first, second in (("dt", "svm"), ("knn_cls", "knn_reg")):
        matched(*(corpus / f"fam_surfaces_mlp__{member}.onnx" for member in (first, second)))
    matched(*(corpus / f"fam_same_weights_cls__{member}.onnx" for member in ("paddle2onnx", "rapid")))


@pytest.mark.parametrize(
    ("family", "pattern"),
    [
        ("cifar_width_neg", r"\(Conv\): it reads initializer '.*' of FLOAT\[\d+,3,\d,\d\] against"),
        ("trees_neg", r"\(TreeEnsemble\): attribute 'leaf_weights' is \[0\.46.* against \[0\.46"),
        (
            "romanizer_enc",
            r"\(Gather\): it reads initializer 'm\.emb\.weight' of FLOAT\[160,256\] against .*\[148,256\]$",
        ),
    ],
)
def test_negative_families_are_refused(shared: Path, family: str, pattern: str) -> None:
    networks = [read_network(file) for file in sorted((shared / "corpus").glob(f"fam_{family}__*.onnx"))]
    for one, other in itertools.combinations(networks, 2):
        with pytest.raises(StructureError, match=pattern) as caught:
            pair([one, other])
        assert "\n" not in str(caught.value)


def test_copies_of_copies_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    length = 300
    steps = " ".join(f"h{index + 1} = Identity(h{index})" for index in range(length))
    text = f"(float[n,4] x) => (float[n,4] y) {{ h0 = MatMul(x, w) {steps} y = Relu(h{length}) }}"
    network = read_network(graphs.build(text, normal(w=(4, 4))))
    asked = []
    real = structure.passes_on

    def counted(node: ir.Node) -> bool:
        asked.append(node)
        return real(node)

    monkeypatch.setattr(structure, "passes_on", counted)
    pair([network])
    assert len(asked) < 10 * length
