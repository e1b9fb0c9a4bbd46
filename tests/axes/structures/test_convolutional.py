"""Convolutional structures, one a test, with the spaces that a person who knows the architecture would write down."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.pipeline.prepare import load, type_models
from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import certified, groups
from tests.graphs import batchnorm, build, normal

HEAD = "pooled = GlobalAveragePool(last) flat = Flatten(pooled) y = MatMul(flat, head)"


def test_depthwise_separable_chain() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem) b = Conv<group=6, pads=[1,1,1,1]>(a, depthwise) c = Relu(b) last = Conv(c, pointwise) {HEAD}
    }}"""
    weights = normal(stem=(6, 3, 3, 3), depthwise=(6, 1, 3, 3), pointwise=(4, 6, 1, 1), head=(4, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("stem", 0), ("depthwise", 0), ("pointwise", 1)),
        group(4, ("pointwise", 0), ("head", 0)),
    }


def test_grouped_convolution_chain() -> None:
    """Two convolutions of the same groups: groups move as wholes, channels inside each group on their own."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem) b = Conv<group=3>(a, g1) c = Relu(b) d = Conv<group=3>(c, g2) last = Conv(d, mix) {HEAD}
    }}"""
    weights = normal(stem=(6, 3, 3, 3), g1=(12, 2, 3, 3), g2=(9, 4, 1, 1), mix=(5, 9, 1, 1), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(3, ("stem", 0), ("g1", 0), ("g2", 0), ("mix", 1)),
        group(2, ("stem", 0), ("g1", 1), outer=(3,)),
        group(4, ("g1", 0), ("g2", 1), outer=(3,)),
        group(3, ("g2", 0), ("mix", 1), outer=(3,)),
        group(5, ("mix", 0), ("head", 0)),
    }


def test_channel_shuffle_between_pointwise_convolutions_is_one_space() -> None:
    """The shuffle only renumbers channels: between two dense convolutions nothing of the symmetric group is lost."""
    graph = f"""(float[n,3,4,4] x) => (float[n,2] y) {{
        a = Conv(x, w1)
        split = Constant<value=int64[5] {{0, 2, 3, 4, 4}}>() b = Reshape(a, split)
        c = Transpose<perm=[0, 2, 1, 3, 4]>(b)
        join = Constant<value=int64[4] {{0, 6, 4, 4}}>() d = Reshape(c, join)
        last = Conv(d, w2) {HEAD}
    }}"""
    weights = normal(w1=(6, 3, 1, 1), w2=(5, 6, 1, 1), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("w1", 0), ("w2", 1)),
        group(5, ("w2", 0), ("head", 0)),
    }


def test_channel_shuffle_between_grouped_convolutions() -> None:
    """ShuffleNet: the second convolution has its groups over the shuffled axis (4, 2), so one is half of the 4.

    Both group axes move; what is left of a channel varies with both of them.
    """
    graph = f"""(float[n,3,4,4] x) => (float[n,2] y) {{
        s = Conv(x, stem) a = Conv<group=2>(s, w1)
        split = Constant<value=int64[5] {{0, 2, 4, 4, 4}}>() b = Reshape(a, split)
        c = Transpose<perm=[0, 2, 1, 3, 4]>(b)
        join = Constant<value=int64[4] {{0, 8, 4, 4}}>() d = Reshape(c, join)
        e = Conv<group=2>(d, w2) last = Conv(e, w3) {HEAD}
    }}"""
    weights = normal(stem=(4, 3, 1, 1), w1=(8, 2, 1, 1), w2=(6, 4, 1, 1), w3=(5, 6, 1, 1), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(2, ("stem", 0), ("w1", 0), ("w2", 1)),
        group(2, ("stem", 0), ("w1", 1), outer=(2,)),
        group(2, ("w1", 0), ("w2", 0), ("w3", 1)),
        group(2, ("w1", 0), ("w2", 1), outer=(2, 2)),
        group(3, ("w2", 0), ("w3", 1), outer=(2,)),
        group(5, ("w3", 0), ("head", 0)),
    }


def test_squeeze_and_excitation() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem)
        p = GlobalAveragePool(a) q = Conv(p, reduce, reduce_b) r = Relu(q) s = Conv(r, expand, expand_b) t = Sigmoid(s)
        last = Mul(a, t) {HEAD}
    }}"""
    weights = normal(
        stem=(8, 3, 3, 3), reduce=(2, 8, 1, 1), reduce_b=(2,), expand=(8, 2, 1, 1), expand_b=(8,), head=(8, 2)
    )
    assert certified_groups(build(graph, weights)) == {
        group(8, ("stem", 0), ("reduce", 1), ("expand", 0), ("expand_b", 0), ("head", 0)),
        group(2, ("reduce", 0), ("reduce_b", 0), ("expand", 1)),
    }


def test_eca_compares_neighbouring_channels_and_fixes_them() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem)
        p = GlobalAveragePool(a) two = Constant<value=int64[1] {{-1}}>() q = Squeeze(p, two)
        r = Transpose<perm=[0, 2, 1]>(q) s = Conv<pads=[1, 1]>(r, eca) t = Transpose<perm=[0, 2, 1]>(s)
        u = Unsqueeze(t, two) v = Sigmoid(u) b = Mul(a, v) last = Conv(b, next) {HEAD}
    }}"""
    weights = normal(stem=(8, 3, 3, 3), eca=(1, 1, 3), next=(5, 8, 1, 1), head=(5, 2))
    found = certified(build(graph, weights))
    assert groups(found) == {group(5, ("next", 0), ("head", 0))}
    assert any(f.initializer == "stem" and "Conv" in f.reason and "window" in f.reason for f in found.fixed)


def test_res2net_split() -> None:
    """Four quarters; each convolved one is added to the next, so those three are one width; the first is alone."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem)
        quarters = Constant<value=int64[4] {{3, 3, 3, 3}}>() x1, x2, x3, x4 = Split<axis=1>(a, quarters)
        y2 = Conv<pads=[1,1,1,1]>(x2, w2) s3 = Add(x3, y2) y3 = Conv<pads=[1,1,1,1]>(s3, w3)
        s4 = Add(x4, y3) y4 = Conv<pads=[1,1,1,1]>(s4, w4)
        joined = Concat<axis=1>(x1, y2, y3, y4) last = Conv(joined, mix) {HEAD}
    }}"""
    weights = normal(
        stem=(12, 3, 1, 1), w2=(3, 3, 3, 3), w3=(3, 3, 3, 3), w4=(3, 3, 3, 3), mix=(6, 12, 1, 1), head=(6, 2)
    )
    assert certified_groups(build(graph, weights)) == {
        group(3, ("stem", 0), ("mix", 1)),
        group(3, ("stem", 0), ("w2", 1)),
        group(3, ("stem", 0), ("w2", 0), ("w3", 1), ("mix", 1)),
        group(3, ("stem", 0), ("w3", 0), ("w4", 1), ("mix", 1)),
        group(3, ("w4", 0), ("mix", 1)),
        group(6, ("mix", 0), ("head", 0)),
    }


def test_dense_concatenation() -> None:
    """Each layer reads all earlier ones through its own BatchNormalization: a space for each layer's growth."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem)
        na = BatchNormalization(a, n1_scale, n1_bias, n1_mean, n1_var) ra = Relu(na) b = Conv<pads=[1,1,1,1]>(ra, w1)
        ab = Concat<axis=1>(a, b)
        nb = BatchNormalization(ab, n2_scale, n2_bias, n2_mean, n2_var) rb = Relu(nb) c = Conv<pads=[1,1,1,1]>(rb, w2)
        last = Concat<axis=1>(ab, c) {HEAD}
    }}"""
    weights = {
        **normal(stem=(6, 3, 3, 3), w1=(4, 6, 3, 3), w2=(4, 10, 3, 3), head=(14, 2)),
        **batchnorm("n1", 6),
        **batchnorm("n2", 10, seed=1),
    }
    norm1 = [(f"n1_{name}", 0) for name in ("scale", "bias", "mean", "var")]
    norm2 = [(f"n2_{name}", 0) for name in ("scale", "bias", "mean", "var")]
    assert certified_groups(build(graph, weights)) == {
        group(6, ("stem", 0), *norm1, ("w1", 1), *norm2, ("w2", 1), ("head", 0)),
        group(4, ("w1", 0), *norm2, ("w2", 1), ("head", 0)),
        group(4, ("w2", 0), ("head", 0)),
    }


@pytest.mark.parametrize("groups_of_transposed", [1, 2])
def test_unet_with_skip_concatenation(groups_of_transposed: int) -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2,8,8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, enc) ra = Relu(a)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(ra) b = Conv<pads=[1,1,1,1]>(p, mid, mid_b) rb = Relu(b)
        up = ConvTranspose<kernel_shape=[2,2], strides=[2,2], group={groups_of_transposed}>(rb, up_w, up_b)
        joined = Concat<axis=1>(up, ra) c = Conv<pads=[1,1,1,1]>(joined, dec) rc = Relu(c) y = Conv(rc, out)
    }}"""
    g = groups_of_transposed
    weights = normal(
        enc=(4, 3, 3, 3),
        mid=(6, 4, 3, 3),
        mid_b=(6,),
        up_w=(6, 4 // g, 2, 2),
        up_b=(4,),
        dec=(5, 8, 3, 3),
        out=(2, 5, 1, 1),
    )
    common = {group(4, ("enc", 0), ("mid", 1), ("dec", 1)), group(5, ("dec", 0), ("out", 1))}
    middle = [("mid", 0), ("mid_b", 0), ("up_w", 0)]
    if g == 1:
        expected = {group(6, *middle), group(4, ("up_w", 1), ("up_b", 0), ("dec", 1))}
    else:
        expected = {
            group(2, *middle, ("up_b", 0), ("dec", 1)),
            group(3, *middle, outer=(2,)),
            group(2, ("up_w", 1), ("up_b", 0), ("dec", 1), outer=(2,)),
        }
    assert certified_groups(build(graph, weights)) == common | expected


def test_flatten_with_positions_left() -> None:
    """VGG: the first linear layer reads (channels, 2, 2); the channels move as wholes."""
    graph = """(float[n,3,4,4] x) => (float[n,2] y) {
        a = Conv<pads=[1,1,1,1]>(x, conv) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        c = Flatten(b) d = Gemm<transB=1>(c, fc, fc_b) e = Relu(d) y = MatMul(e, head)
    }"""
    weights = normal(conv=(5, 3, 3, 3), fc=(7, 20), fc_b=(7,), head=(7, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("conv", 0), ("fc", 1)),
        group(7, ("fc", 0), ("fc_b", 0), ("head", 0)),
    }


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixel_shuffle(mode: str) -> None:
    """Sub-pixel positions are fixed, and every one of them holds the same channels."""
    graph = f"""(float[n,3,4,4] x) => (float[n,2,8,8] y) {{
        a = Conv(x, w1) b = DepthToSpace<blocksize=2, mode="{mode}">(a) y = Conv(b, w2)
    }}"""
    weights = normal(w1=(20, 3, 1, 1), w2=(2, 5, 1, 1))
    assert certified_groups(build(graph, weights)) == {group(5, ("w1", 0), ("w2", 1))}


def test_pixel_shuffle_from_reshape_and_transpose() -> None:
    """PyTorch's decomposition: (c 2 2) h w -> c (h 2) (w 2). Channels vary with nothing, as in the fused operator."""
    graph = """(float[1,3,4,4] x) => (float[1,2,6,6] y) {
        a = Conv(x, w1)
        s1 = Constant<value=int64[6] {1, 5, 2, 2, 4, 4}>() b = Reshape(a, s1)
        c = Transpose<perm=[0, 1, 4, 2, 5, 3]>(b)
        s2 = Constant<value=int64[4] {1, 5, 8, 8}>() d = Reshape(c, s2) y = Conv(d, w2)
    }"""
    weights = normal(w1=(20, 3, 1, 1), w2=(2, 5, 3, 3))
    assert certified_groups(build(graph, weights)) == {group(5, ("w1", 0), ("w2", 1))}


def test_space_to_depth() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1) b = SpaceToDepth<blocksize=2>(a) last = Conv(b, w2) {HEAD}
    }}"""
    weights = normal(w1=(5, 3, 3, 3), w2=(6, 20, 1, 1), head=(6, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("w1", 0), ("w2", 1)),
        group(6, ("w2", 0), ("head", 0)),
    }


def test_weight_standardisation() -> None:
    """The weight is normalised in the graph, over everything but its output channel."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem)
        axes = Constant<value=int64[3] {{1, 2, 3}}>()
        mean = ReduceMean(w, axes) centred = Sub(w, mean) square = Mul(centred, centred)
        variance = ReduceMean(square, axes) deviation = Sqrt(variance) standard = Div(centred, deviation)
        scaled = Mul(standard, gain) last = Conv(a, scaled) {HEAD}
    }}"""
    weights = normal(stem=(4, 3, 3, 3), w=(5, 4, 3, 3), gain=(5, 1, 1, 1), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(4, ("stem", 0), ("w", 1)),
        group(5, ("w", 0), ("gain", 0), ("head", 0)),
    }


def test_convnext_block_with_layer_scale() -> None:
    """Depthwise convolution, LayerNormalization over channels last, pointwise MLP, learned scale, residual."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem) b = Conv<group=6, pads=[1,1,1,1]>(a, dw)
        c = Transpose<perm=[0, 2, 3, 1]>(b) d = LayerNormalization<axis=-1>(c, ln_w, ln_b)
        e = MatMul(d, up) f = Gelu(e) g = MatMul(f, down) h = Mul(g, gamma)
        i = Transpose<perm=[0, 3, 1, 2]>(h) last = Add(a, i) {HEAD}
    }}"""
    weights = normal(
        stem=(6, 3, 1, 1), dw=(6, 1, 3, 3), ln_w=(6,), ln_b=(6,), up=(6, 10), down=(10, 6), gamma=(6,), head=(6, 2)
    )
    stream = [("stem", 0), ("dw", 0), ("ln_w", 0), ("ln_b", 0), ("up", 0), ("down", 1), ("gamma", 0), ("head", 0)]
    assert certified_groups(build(graph, weights)) == {group(6, *stream), group(10, ("up", 1), ("down", 0))}


def test_padded_shortcut() -> None:
    """ResNet's option A: the stream is widened with zeros; the old channels stay together inside the new ones."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem) pads = Constant<value=int64[8] {{0, 1, 0, 0, 0, 1, 0, 0}}>()
        b = Pad(a, pads) c = Conv(a, wide) last = Add(b, c) {HEAD}
    }}"""
    weights = normal(stem=(4, 3, 3, 3), wide=(6, 4, 1, 1), head=(6, 2))
    assert certified_groups(build(graph, weights)) == {group(4, ("stem", 0), ("wide", 1), ("wide", 0), ("head", 0))}


def test_batchnorm_over_time() -> None:
    """A one-dimensional network: channels move, time does not."""
    graph = """(float[n,3,16] x) => (float[n,2] y) {
        a = Conv<pads=[1,1]>(x, w1) b = BatchNormalization(a, n_scale, n_bias, n_mean, n_var) c = Relu(b)
        d = Conv<group=4, dilations=[2], pads=[4,0]>(c, w2) e = GlobalMaxPool(d) f = Flatten(e) y = MatMul(f, head)
    }"""
    weights = {**normal(w1=(4, 3, 3), w2=(8, 1, 3), head=(8, 2)), **batchnorm("n", 4)}
    norm = [(f"n_{name}", 0) for name in ("scale", "bias", "mean", "var")]
    assert certified_groups(build(graph, weights)) == {
        group(4, ("w1", 0), *norm, ("w2", 0), ("head", 0)),
        group(2, ("w2", 0), ("head", 0), outer=(4,)),
    }


def test_token_mixing_by_pointwise_convolution() -> None:
    """MLP-Mixer with 1x1 convolutions over tokens: the channels stand where positions do, and nothing slides there."""
    graph = """(float[n,6,4] x) => (float[n,2] y) {
        a = MatMul(x, embed) b = Conv(a, mix1) c = Relu(b) d = Conv(c, mix2) e = Add(a, d)
        axis = Constant<value=int64[1] {1}>() f = ReduceMean<keepdims=0>(e, axis) y = MatMul(f, head)
    }"""
    weights = normal(embed=(4, 5), mix1=(8, 6, 1), mix2=(6, 8, 1), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("embed", 1), ("head", 0)),
        group(8, ("mix1", 0), ("mix2", 1)),
    }


def test_stft_front_end() -> None:
    """A learned Fourier basis: each frequency has a real and an imaginary row, which share one order."""
    graph = """(float[n,1,64] x) => (float[n,2] y) {
        spectrum = Conv<strides=[8]>(x, basis)
        halves = Constant<value=int64[2] {9, 9}>() re, im = Split<axis=1>(spectrum, halves)
        re2 = Mul(re, re) im2 = Mul(im, im) power = Add(re2, im2) magnitude = Sqrt(power)
        a = Conv(magnitude, conv) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c) y = MatMul(d, head)
    }"""
    weights = normal(basis=(18, 1, 16), conv=(4, 9, 1), head=(4, 2))
    assert certified_groups(build(graph, weights)) == {
        group(9, ("basis", 0), ("conv", 1)),
        group(4, ("conv", 0), ("head", 0)),
    }


def test_glu_halves_share_one_order() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, w, b) halves = Constant<value=int64[2] {{5, 5}}>() p, q = Split<axis=1>(a, halves)
        g = Sigmoid(q) last = Mul(p, g) {HEAD}
    }}"""
    weights = normal(w=(10, 3, 1, 1), b=(10,), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {group(5, ("w", 0), ("b", 0), ("head", 0))}


def test_group_normalisation_stream() -> None:
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, stem) b = GroupNormalization<num_groups=2>(a, s1, b1) c = Relu(b) d = Conv<pads=[1,1,1,1]>(c, w)
        last = Add(a, d) {HEAD}
    }}"""
    weights = normal(stem=(6, 3, 3, 3), s1=(6,), b1=(6,), w=(6, 6, 3, 3), head=(6, 2))
    places = [("stem", 0), ("s1", 0), ("b1", 0), ("w", 1), ("w", 0), ("head", 0)]
    assert certified_groups(build(graph, weights)) == {group(2, *places), group(3, *places, outer=(2,))}


def test_group_normalisation_across_a_skip_concatenation() -> None:
    """16 | 8 channels in four groups of 6: two whole groups, one of 4 channels from here and 2 from there, and one."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, wa) b = Conv(x, wb) c = Concat<axis=1>(a, b)
        d = GroupNormalization<num_groups=4>(c, s, t) last = Relu(d) {HEAD}
    }}"""
    weights = normal(wa=(16, 3, 3, 3), wb=(8, 3, 3, 3), s=(24,), t=(24,), head=(24, 2))
    deep, skip, after = ("wa", 0), ("wb", 0), [("s", 0), ("t", 0), ("head", 0)]
    assert certified_groups(build(graph, weights)) == {
        group(2, deep, *after),
        group(6, deep, *after, outer=(2,)),
        group(4, deep, *after),
        group(2, skip, *after),
        group(6, skip, *after),
    }


def test_two_group_normalisations_of_other_widths() -> None:
    """Groups of 4 and of 6 over the same 12 channels: units that share both groups are interchangeable."""
    graph = f"""(float[n,3,8,8] x) => (float[n,2] y) {{
        a = Conv(x, w) b = GroupNormalization<num_groups=3>(a, s, t) c = GroupNormalization<num_groups=2>(b, u, v)
        last = Relu(c) {HEAD}
    }}"""
    weights = normal(w=(12, 3, 3, 3), s=(12,), t=(12,), u=(12,), v=(12,), head=(12, 2))
    prepared = type_models(load([build(graph, weights)]), None, None)
    assert prepared.certify(0, seed=0, provider="cpu").passed
    assert sorted(space.size for space in prepared.typing.spaces.values() if space.free) == [2, 2, 4, 4]


def test_scales_of_a_resize_are_not_units() -> None:
    graph = """(float[n,3,4,4] x) => (float[n,2,8,8] y) {
        a = Conv(x, w1) b = Resize<mode="nearest">(a, , scales) y = Conv(b, w2)
    }"""
    weights = {**normal(w1=(5, 3, 1, 1), w2=(2, 5, 1, 1)), "scales": np.array([1, 1, 2, 2], np.float32)}
    assert certified_groups(build(graph, weights)) == {group(5, ("w1", 0), ("w2", 1))}
