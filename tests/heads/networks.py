"""Small networks of the usual kinds, whose parents can be told apart."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.graphs import batchnorm, build, normal

MLP = """(float[n,6] x) => (float[n,{k}] y) {{
    h = Gemm<transB=1>(x, w1, b1) r = Relu(h) g = MatMul(r, w2) s = Tanh(g) {tail}
}}"""
LAST = "y = MatMul(s, w3)"

CNN = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) p = BatchNormalization(a, n1_scale, n1_bias, n1_mean, n1_var) q = Relu(p)
    c = Conv<pads=[1,1,1,1]>(q, w2, b2) e = Add(c, q) r = Relu(e)
    d = Conv<group=4, pads=[1,1,1,1]>(r, w4, b4) u = Relu(d)
    g = GlobalAveragePool(u) f = Flatten(g) y = Gemm<transB=1>(f, w3, b3)
}"""

ATTENTION = """(float[n,5,3] x) => (float[n,5,2] y) {
    e = MatMul(x, embed) a = MatMul(e, wq) b = MatMul(e, wk) c = MatMul(e, wv)
    heads = Constant<value=int64[4] {0, 0, 2, 4}>() joined = Constant<value=int64[3] {0, 0, -1}>()
    qr = Reshape(a, heads) kr = Reshape(b, heads) vr = Reshape(c, heads)
    q = Transpose<perm=[0, 2, 1, 3]>(qr) kt = Transpose<perm=[0, 2, 3, 1]>(kr) v = Transpose<perm=[0, 2, 1, 3]>(vr)
    scores = MatMul(q, kt) p = Softmax(scores) o = MatMul(p, v) t = Transpose<perm=[0, 2, 1, 3]>(o)
    m = Reshape(t, joined) z = MatMul(m, wo) l = Add(e, z)
    norm = LayerNormalization(l, ns, nb) y = MatMul(norm, head)
}"""


def mlp(seed: int = 0, classes: int = 3) -> onnx.ModelProto:
    weights = normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, classes), seed=seed)
    return build(MLP.format(k=classes, tail=LAST), weights)


def cnn(seed: int = 0) -> onnx.ModelProto:
    weights = normal(w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w4=(8, 2, 3, 3), b4=(8,), seed=seed)
    return build(CNN, {**weights, **normal(w3=(4, 8), b3=(4,), seed=seed + 9), **batchnorm("n1", 8, seed=seed)})


def attention(seed: int = 0) -> onnx.ModelProto:
    weights = normal(embed=(3, 6), wq=(6, 8), wk=(6, 8), wv=(6, 8), wo=(8, 6), ns=(6,), nb=(6,), seed=seed)
    return build(ATTENTION, {**weights, **normal(head=(6, 2), seed=seed + 9)})


def data(model: onnx.ModelProto, rows: int = 16) -> NDArray[np.float32]:
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(1).standard_normal((rows, *dims)).astype(np.float32)
