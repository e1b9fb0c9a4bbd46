"""Streamed statistics against NumPy in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxmerge.activations import measuring
from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.moments import Probe, by_batch, measured_batches
from onnxmerge.activations.statistics import GramRequest, MomentRequest, Statistics
from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.errors import InputError
from onnxmerge.model.read import read_network
from onnxmerge.model.session import Session, open_session
from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing
from tests.graphs import build

Weights = dict[str, NDArray[Any]]

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def other(weights: Weights, seed: int = 1) -> Weights:
    """Weights of another model of the same shapes."""
    rng = np.random.default_rng(seed)
    return {
        name: array if array.dtype.kind == "i" else rng.standard_normal(array.shape).astype(array.dtype)
        for name, array in weights.items()
    }


def plain(name: str, shape: tuple[int, ...], **axes: Any) -> TensorLayout:
    """One block; ``a1=("h", "d")`` puts spaces (with their sizes in ``sizes``) on axis 1."""
    sizes: dict[str, int] = axes.pop("sizes", {})
    parts = []
    for index, length in enumerate(shape):
        spaces = axes.get(f"a{index}", ())
        grid = [sizes[space] for space in spaces] if len(spaces) > 1 else [length]
        parts.append(AxisBlock(tuple(spaces), np.arange(length).reshape(grid)))
    return TensorLayout(name, shape, (Block(tuple(parts)),))


def typed(spaces: Sequence[Space], *layouts: TensorLayout) -> Typing:
    return Typing({space.id: space for space in spaces}, {}, {layout.name: layout for layout in layouts})


def activation(model: onnx.ModelProto, weights: Weights, feed: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    session = open_session(ir.from_proto(model), weights=weights, outputs=[name])
    return session.run(feed)[name].astype(np.float64)


def collect(
    model: onnx.ModelProto,
    weights: Sequence[Weights],
    typing: Typing,
    requests: Sequence[Any],
    data: Any,
    **options: Any,
) -> Statistics:
    template = ir.from_proto(model)
    batch = options.pop("batch_size", 16)
    source = open_source(data, input_specs(template), batch_size=batch)
    return measure_statistics(template, weights, typing, requests, source, **options)


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    n = x.shape[1]
    return np.corrcoef(x, y, rowvar=False)[:n, n:]


@pytest.fixture
def mlp() -> tuple[onnx.ModelProto, Weights]:
    weights = {"w": normal(5, 4), "b": normal(5), "v": normal(3, 5)}
    graph = "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w, b) r = Relu(h) y = Gemm<transB=1>(r, v) }"
    return build(graph, weights), weights


MLP_TYPING = typed([Space("u", 5)], plain("h", (2, 5), a1=("u",)), plain("r", (2, 5), a1=("u",)))


@pytest.mark.smoke
def test_mlp_pools_taps_and_pairs(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    model, first = mlp
    all_weights = [first, other(first, 1), other(first, 2)]
    data = RANDOM.standard_normal((77, 4)).astype(np.float32)
    requests = [GramRequest("u", ("h", "r")), MomentRequest("h", "u")]
    found = collect(model, all_weights, MLP_TYPING, requests, data, pairs=[(0, 1), (2, 1), (0, 0)])
    taps = [np.concatenate([activation(model, own, {"x": data}, name) for name in ("h", "r")]) for own in all_weights]
    gram = found.gram["u"]
    assert gram.count == 2 * 77
    for i, j in [(0, 1), (1, 0), (2, 1), (0, 0)]:
        np.testing.assert_allclose(gram.correlation(i, j), correlation(taps[i], taps[j]), atol=1e-5)
    together = np.corrcoef(np.concatenate([taps[0], taps[0]], axis=1), rowvar=False)
    np.testing.assert_allclose(gram.correlations(1), together[:5, 5:], atol=1e-5)
    np.testing.assert_allclose(gram.cross[0, 1], taps[0].T @ taps[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gram.sums[2], taps[2].sum(axis=0), rtol=1e-4, atol=1e-4)
    moments = found.moments[1, "h", "u"]
    np.testing.assert_allclose(moments.mean, taps[1][:77].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.variance, taps[1][:77].var(axis=0), rtol=1e-5)
    with pytest.raises(KeyError):
        gram.correlation(0, 2)


def test_a_unit_is_like_no_other_more_than_like_its_copy(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    model, first = mlp
    first = {**first, "w": np.outer([1.0, 1.7, -0.3, 2.9, 0.1], first["w"][0]).astype(np.float32)}
    data = RANDOM.standard_normal((300, 4)).astype(np.float32)
    every = [(0, 0), (0, 1), (1, 1)]
    found = collect(model, [first, first], MLP_TYPING, [GramRequest("u", ("h",))], data, pairs=every, batch_size=7)
    similarity = found.gram["u"].correlations(2)
    np.testing.assert_allclose(np.diagonal(similarity), 1, rtol=1e-12)
    np.testing.assert_allclose(np.diagonal(similarity, 5), 1, rtol=1e-12)


def test_batches_make_no_difference(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    model, first = mlp
    data = RANDOM.standard_normal((300, 4)).astype(np.float32)
    pair = [first, other(first)]
    whole, ones = (
        collect(model, pair, MLP_TYPING, [GramRequest("u", ("r",))], data, batch_size=size).gram["u"]
        for size in (300, 1)
    )
    np.testing.assert_allclose(whole.correlation(0, 1), ones.correlation(0, 1), atol=1e-6)
    assert whole.count == ones.count == 300


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with how many samples are run at once."""
    found, real = list[int](), Session.run

    def counted(session: Session, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        found.append(len(feeds["x"]))
        return real(session, feeds)

    monkeypatch.setattr(Session, "run", counted)
    return found


def test_batches_of_many_activations_are_cut(
    mlp: tuple[onnx.ModelProto, Weights], monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    model, first = mlp
    data = RANDOM.standard_normal((16, 4)).astype(np.float32)
    monkeypatch.setattr(measuring, "ACTIVATIONS", 5 * 2 * 2 * 5 * 4)  # five samples of two tensors in two models
    requests = [GramRequest("u", ("h", "r"))]
    uncut, cut = (
        collect(model, [first, other(first)], MLP_TYPING, requests, data, traced=traced).gram["u"]
        for traced in (None, 2)
    )
    assert runs == [16, 5, 5, 5, 1]
    assert cut.count == uncut.count == 32
    np.testing.assert_allclose(cut.cross[0, 1], uncut.cross[0, 1], rtol=1e-5)


@pytest.mark.parametrize(("traced", "expected"), [(None, [128] * 10), (2, [1024, 256])])
def test_many_samples_of_few_rows_are_run_at_once(
    mlp: tuple[onnx.ModelProto, Weights], runs: list[int], traced: int | None, expected: list[int]
) -> None:
    model, first = mlp
    data = RANDOM.standard_normal((1280, 4)).astype(np.float32)
    requests = [GramRequest("u", ("h", "r"))]
    found = collect(model, [first, other(first)], MLP_TYPING, requests, data, traced=traced, batch_size=128).gram["u"]
    assert (runs, found.count) == (expected, 2560)
    x, y = (
        np.concatenate([activation(model, own, {"x": data}, name) for name in ("h", "r")])
        for own in (first, other(first))
    )
    np.testing.assert_allclose(found.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_a_tensor_of_one_row_joins_no_batches_of_a_network_of_many(runs: list[int]) -> None:
    graph = """(float[n,16,4] x) => (float[n,3] y) {
        h = MatMul(x, w) g = ReduceMean<keepdims=0>(h, axis) y = MatMul(g, v) }"""
    weights = {"w": normal(4, 5), "v": normal(5, 3), "axis": np.array([1])}
    typing = typed([Space("u", 5)], plain("h", (2, 16, 5), a2=("u",)), plain("g", (2, 5), a1=("u",)))
    data = RANDOM.standard_normal((256, 16, 4)).astype(np.float32)
    own = {"w": weights["w"]}
    collect(build(graph, weights), [own, own], typing, [GramRequest("u", ("h", "g"))], data, traced=2, batch_size=32)
    assert runs == [32] * 8


def test_large_means_do_not_cancel(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    model, first = mlp
    shifted = {**first, "b": first["b"] + 1000}
    pair = [shifted, {**other(first), "b": np.full(5, -500, np.float32)}]
    data = RANDOM.standard_normal((2000, 4)).astype(np.float32)
    gram = collect(model, pair, MLP_TYPING, [GramRequest("u", ("h",))], data, batch_size=500).gram["u"]
    x, y = (activation(model, own, {"x": data}, "h") for own in pair)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_dead_units_correlate_with_nothing(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    model, first = mlp
    constant = {**first, "w": first["w"].copy(), "b": first["b"].copy()}
    constant["w"][:2], constant["b"][:2] = 0, (-1, 0.3)  # dead after the ReLU; constant but not zero
    data = RANDOM.standard_normal((1000, 4)).astype(np.float32)
    gram = collect(model, [constant, first], MLP_TYPING, [GramRequest("u", ("r",))], data, batch_size=128).gram["u"]
    assert (gram.correlation(0, 1)[:2] == 0).all()
    assert (gram.variance(0)[:2] == 0).all()
    assert (gram.correlation(0, 1)[2:] != 0).any()


def conv(opset: int) -> tuple[onnx.ModelProto, Weights]:
    weights = {"w": normal(6, 3, 3, 3), "b": normal(6)}
    graph = "(float[n,3,h,w_] x) => (float[n,6,p,q] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c) }"
    return build(graph, weights, opset=opset, ir_version=4), weights


CONV_TYPING = typed([Space("c", 6)], plain("y", (2, 6, 8, 8), a1=("c",)))


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 13, 17, 18, 21])
def test_convolution_in_every_form_of_the_operators(opset: int) -> None:
    model, first = conv(opset)
    pair = [first, other(first)]
    # Sizes other than in the trace: nothing of it may be written into the graph.
    data = RANDOM.standard_normal((9, 3, 5, 7)).astype(np.float32)
    gram = collect(model, pair, CONV_TYPING, [GramRequest("c", ("y",))], data, batch_size=4).gram["c"]
    x, y = (activation(model, own, {"x": data}, "y").transpose(0, 2, 3, 1).reshape(-1, 6) for own in pair)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_positions_are_thinned_out_evenly() -> None:
    model, first = conv(21)
    data = RANDOM.standard_normal((4, 3, 8, 8)).astype(np.float32)
    gram = collect(model, [first, first], CONV_TYPING, [GramRequest("c", ("y",))], data, max_positions=16).gram["c"]
    kept = activation(model, first, {"x": data}, "y").reshape(4, 6, 64)[:, :, ::5]
    assert gram.count == 4 * 13
    np.testing.assert_allclose(gram.sums[0], kept.sum(axis=(0, 2)), rtol=1e-5)


def test_heads_on_axes_of_their_own_and_flattened() -> None:
    weights = {"w": normal(6, 12), "s": np.array([0, 0, 3, 4]), "t": np.array([0, 0, 12])}
    model = build(
        "(float[b,n,6] x) => (float[b,n,12] z) { m = MatMul(x, w) r = Reshape(m, s) "
        "q = Transpose<perm=[0,2,1,3]>(r) u = Transpose<perm=[0,1,3,2]>(q) z = Reshape(r, t) }",
        weights,
    )
    pair = [weights, other(weights)]
    sizes = {"h": 3, "d": 4}
    spaces = [Space("h", 3), Space("d", 4, varies_with=("h",))]
    layouts = [
        plain("q", (2, 3, 5, 4), a1=("h",), a3=("d",)),
        plain("u", (2, 3, 4, 5), a1=("h",), a2=("d",)),
        plain("z", (2, 5, 12), a2=("h", "d"), sizes=sizes),
    ]
    data = RANDOM.standard_normal((7, 9, 6)).astype(np.float32)
    x, y = (activation(model, own, {"x": data}, "z").reshape(-1, 12) for own in pair)
    for name in ("q", "u", "z"):
        found = collect(model, pair, typed(spaces, *layouts), [GramRequest("d", (name,))], data, batch_size=3)
        np.testing.assert_allclose(found.gram["d"].correlation(0, 1), correlation(x, y), atol=1e-5, err_msg=name)
    # The heads alone: their samples would run over d, which stands in another order in the other model.
    heads = collect(model, pair, typed(spaces, *layouts), [GramRequest("h", ("z",)), MomentRequest("z", "h")], data)
    assert "h" not in heads.gram
    by_head = activation(model, weights, {"x": data}, "z").reshape(7, 9, 3, 4).mean(axis=(0, 1, 3))
    np.testing.assert_allclose(heads.moments[0, "z", "h"].mean, by_head, atol=1e-5)


@pytest.mark.parametrize("before", [True, False])
def test_a_batch_folded_into_the_heads_is_as_long_as_the_data(*, before: bool) -> None:
    """As bmm wants it. The trace had two samples, the data comes in batches of four and three."""
    weights = {"w": normal(6, 12), "s": np.array([0, 0, 3, 4]), "t": np.array([-1, 9, 4])}
    perm = "[0,2,1,3]" if before else "[2,0,1,3]"
    model = build(
        f"(float[b,9,6] x) => (float[k,9,4] z) {{ m = MatMul(x, w) r = Reshape(m, s) "
        f"q = Transpose<perm={perm}>(r) z = Reshape(q, t) }}",
        weights,
    )
    pair = [weights, other(weights)]
    spaces = [Space("b", 2, fixed="batch"), Space("h", 3), Space("d", 4, varies_with=("h",))]
    folded = ("b", "h") if before else ("h", "b")
    sizes = {"b": 2, "h": 3, "d": 4}
    typing = typed(spaces, plain("z", (6, 9, 4), a0=folded, a2=("d",), sizes=sizes))
    data = RANDOM.standard_normal((7, 9, 6)).astype(np.float32)
    x, y = (activation(model, own, {"x": data}, "r").reshape(-1, 12) for own in pair)
    found = collect(model, pair, typing, [GramRequest("d", ("z",))], data, batch_size=4)
    np.testing.assert_allclose(found.gram["d"].correlation(0, 1), correlation(x, y), atol=1e-5)
    assert found.gram["d"].count == 63


def test_flattened_image_counts_pixels_as_samples() -> None:
    model = build("(float[n,3,2,2] x) => (float[n,12] y) { r = Relu(x) y = Flatten<axis=1>(r) }")
    spaces = [Space("c", 3), Space("p", 4, fixed="positions")]
    typing = typed(spaces, plain("y", (2, 12), a1=("c", "p"), sizes={"c": 3, "p": 4}))
    data = RANDOM.standard_normal((20, 3, 2, 2)).astype(np.float32)
    gram = collect(model, [{}, {}], typing, [GramRequest("c", ("y",))], data).gram["c"]
    x = np.maximum(data, 0).astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, x), atol=1e-5)
    assert gram.count == 80


def test_leftover_of_a_unit_axis_joins_the_samples_beside_it() -> None:
    model = build("(float[n,6,t] x) => (float[n,6,t] y) { y = Tanh(x) }")
    spaces = [Space("c", 3), Space("p", 2, fixed="positions")]
    typing = typed(spaces, plain("y", (2, 6, 4), a1=("c", "p"), sizes={"c": 3, "p": 2}))
    data = normal(20, 6, 5)
    gram = collect(model, [{}, {}], typing, [GramRequest("c", ("y",))], data).gram["c"]
    x = np.tanh(data.astype(np.float64)).reshape(20, 3, 10).transpose(0, 2, 1).reshape(-1, 3)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, x), atol=1e-5)


@pytest.mark.parametrize("places", [([0, 1, 2], [3, 4]), ([4, 0, 2], [1, 3])])
def test_parts_of_a_concat_are_taken_from_their_places(places: tuple[list[int], list[int]]) -> None:
    model = build("(float[n,5] x) => (float[n,5] y) { y = Tanh(x) }")
    batch = AxisBlock((), np.arange(2))
    blocks = tuple(Block((batch, AxisBlock((name,), np.array(own)))) for name, own in zip("ab", places, strict=True))
    typing = typed([Space("a", 3), Space("b", 2)], TensorLayout("y", (2, 5), blocks))
    data = RANDOM.standard_normal((50, 5)).astype(np.float32)
    found = collect(model, [{}, {}], typing, [GramRequest("a", ("y",)), GramRequest("b", ("y",))], data)
    for name, own in zip("ab", places, strict=True):
        x = np.tanh(data.astype(np.float64))[:, own]
        np.testing.assert_allclose(found.gram[name].correlation(0, 1), correlation(x, x), atol=1e-5)


def test_float16_is_summed_in_float32() -> None:
    model = build("(float16[n,4] x) => (float16[n,4] y) { y = Relu(x) }")
    typing = typed([Space("u", 4)], plain("y", (2, 4), a1=("u",)))
    data = (RANDOM.standard_normal((5000, 4)) * 100).astype(np.float16)
    gram = collect(model, [{}, {}], typing, [GramRequest("u", ("y",))], data, batch_size=2500).gram["u"]
    x = np.maximum(data.astype(np.float64), 0)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, x), atol=1e-5)


def test_bfloat16_models() -> None:
    weights = {"w": normal(4, 5).astype(ml_dtypes.bfloat16)}
    model = build("(bfloat16[n,4] x) => (bfloat16[n,5] y) { y = MatMul(x, w) }", weights)
    typing = typed([Space("u", 5)], plain("y", (2, 5), a1=("u",)))
    data = normal(100, 4)
    gram = collect(model, [weights, weights], typing, [GramRequest("u", ("y",))], data).gram["u"]
    x = data.astype(ml_dtypes.bfloat16).astype(np.float64) @ weights["w"].astype(np.float64)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, x), atol=1e-5)


def test_models_too_large_for_one_message(
    mlp: tuple[onnx.ModelProto, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmerge.model.runtimes.onnx_runtime.IN_MEMORY", 0)
    gram = collect(mlp[0], [mlp[1]] * 2, MLP_TYPING, [GramRequest("u", ("r",))], normal(50, 4)).gram["u"]
    x = activation(*mlp, {"x": normal(50, 4)}, "r")
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, x), atol=1e-5)


def test_two_real_networks_side_by_side(shared: Path) -> None:
    pair = [read_network(shared / "pairs" / "cifar5-resnet20" / f"{name}.folded.onnx") for name in "ab"]
    typing = typed([Space("s", 64)], *(plain(name, (2, 64, 16, 16), a1=("s",)) for name in ("relu_8", "relu_10")))
    data = normal(6, 3, 32, 32)
    source = open_source(data, input_specs(pair[0].model), batch_size=4)
    weights = [network.weights for network in pair]
    gram = measure_statistics(pair[0], weights, typing, [GramRequest("s", ("relu_8", "relu_10"))], source).gram["s"]
    taps = []
    for network in pair:
        found = open_session(network.model, outputs=["relu_8", "relu_10"]).run({"images": data})
        taps.append(np.concatenate([found[name].transpose(0, 2, 3, 1).reshape(-1, 64) for name in found]))
    x, y = (tap.astype(np.float64) for tap in taps)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_weights_inside_a_branch_belong_to_their_model() -> None:
    weights = {"w": normal(4, 4), "yes": np.array(True)}  # noqa: FBT003
    graph = (
        "(float[n,4] x) => (float[n,4] y) { y = If (yes) <then_branch = t () => (float[n,4] a) { a = MatMul(x, w) },"
        " else_branch = e () => (float[n,4] c) { c = Identity(x) }> }"
    )
    model = build(graph, weights)
    pair: list[Weights] = [weights, {**weights, "w": normal(4, 5)[:, :4]}]
    typing = typed([Space("u", 4)], plain("y", (2, 4), a1=("u",)))
    data = RANDOM.standard_normal((60, 4)).astype(np.float32)
    gram = collect(model, pair, typing, [GramRequest("u", ("y",))], data).gram["u"]
    x, y = (data.astype(np.float64) @ own["w"] for own in pair)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_fixed_batch_of_one() -> None:
    weights = {"w": normal(4, 5)}
    model = build("(float[1,4] x) => (float[1,5] y) { y = MatMul(x, w) }", weights)
    typing = typed([Space("u", 5)], plain("y", (1, 5), a1=("u",)))
    pair = [weights, other(weights)]
    data = RANDOM.standard_normal((200, 4)).astype(np.float32)
    gram = collect(model, pair, typing, [GramRequest("u", ("y",))], data).gram["u"]
    x, y = (data.astype(np.float64) @ own["w"] for own in pair)
    np.testing.assert_allclose(gram.correlation(0, 1), correlation(x, y), atol=1e-5)


def test_template_is_untouched_and_progress_reported(
    mlp: tuple[onnx.ModelProto, Weights], capfd: pytest.CaptureFixture[str]
) -> None:
    model, first = mlp
    template = ir.from_proto(model)
    before = ir.to_proto(template).SerializeToString(deterministic=True)
    source = open_source(normal(300, 4), input_specs(template), batch_size=48)
    steps: list[tuple[int, int | None]] = []
    requests = [GramRequest("u", ("r",))]
    measure_statistics(
        template, [first, other(first)], MLP_TYPING, requests, source, progress=lambda *step: steps.append(step)
    )
    assert steps == [(3, 7), (6, 7), (7, 7)]  # shards of 144, 144 and 12 samples
    assert ir.to_proto(template).SerializeToString(deterministic=True) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GramRequest("u", ("nowhere",)), "'nowhere' is not an activation"),
        (GramRequest("s", ("r",)), "'s' is not a space"),
        (MomentRequest("x", "u"), "'x' is not an activation"),
    ],
)
def test_unknown_requests(mlp: tuple[onnx.ModelProto, Weights], request_: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect(mlp[0], [mlp[1]], MLP_TYPING, [request_], normal(4, 4))


def test_activations_that_overflow_are_refused(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    huge = {**mlp[1], "w": np.full((5, 4), 3e38, np.float32)}
    with pytest.raises(InputError, match=r"'h' has NaN or infinite"):
        collect(mlp[0], [mlp[1], huge], MLP_TYPING, [GramRequest("u", ("h",))], normal(8, 4))


def test_source_of_another_model(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    template = ir.from_proto(mlp[0])
    narrow = build("(float[n,3] z) => (float[n,3] y) { y = Relu(z) }")
    source = open_source(normal(8, 3), input_specs(ir.from_proto(narrow)))
    with pytest.raises(InputError, match="lacks the model's input 'x'"):
        measure_statistics(template, [mlp[1]], MLP_TYPING, [MomentRequest("h", "u")], source)


def test_nothing_requested_reads_nothing(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    found = collect(mlp[0], [mlp[1]], MLP_TYPING, [], iter(()))
    assert not found.gram
    assert not found.moments


@pytest.mark.parametrize(("samples", "batch"), [(40, 16), (700, 48), (600, 256)])
def test_probes_see_in_each_batch_what_a_run_of_their_own_sees(
    mlp: tuple[onnx.ModelProto, Weights], samples: int, batch: int
) -> None:
    model, first = mlp
    template, both = ir.from_proto(model), [first, other(first)]
    source = open_source(normal(samples, 4), input_specs(template), batch_size=batch)
    probes = [Probe("h", 1, 2, ir.DataType.FLOAT), Probe("y", 1, 2, ir.DataType.FLOAT)]
    found = measure_statistics(template, both, MLP_TYPING, [GramRequest("u", ("r",))], source, probes=probes)
    for index, own in enumerate(both):
        alone = list(by_batch(template, own, probes, measured_batches(template, source)))
        together = found.by_batch(index)
        assert [batch["h"].count for batch in together] == [batch["h"].count for batch in alone]
        for seen, expected in zip(together, alone, strict=True):
            for name in ("h", "y"):
                np.testing.assert_allclose(seen[name].mean, expected[name].mean, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(seen[name].variance, expected[name].variance, rtol=1e-5)


def test_probes_alone_are_measured(mlp: tuple[onnx.ModelProto, Weights]) -> None:
    found = collect(mlp[0], [mlp[1]], MLP_TYPING, [], normal(20, 4), probes=[Probe("h", 1, 2, ir.DataType.FLOAT)])
    assert [batch["h"].count for batch in found.by_batch(0)] == [20]
    assert not found.gram
