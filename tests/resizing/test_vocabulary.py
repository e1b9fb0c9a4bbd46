"""Networks brought to other tokens: one form of a language model a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from onnxmerge.errors import InputError
from onnxmerge.model.network import Network
from onnxmerge.model.read import read_network
from onnxmerge.resizing.vocabulary import vocabulary_rows, with_vocabulary
from tests.graphs import build, execute, normal
from tests.vocabularies import LENGTH, ROWS, TIED, UNTIED, WIDTH, language_model

TOKENS = 12
OWN = np.array([3, 0, -1, 11, 1, 2, -1, 4, 5, 6, 7, 8, 9, 10])
"""The row of each of 14 tokens in a model of 12, of which it lacks two."""
FEWER = np.array([5, 0, 7, -1])

CAPPED = "l = MatMul(n, head) c = Div(l, cap) t2 = Tanh(c) u = Mul(t2, cap) logits = Add(u, bias)"
CAST = "h16 = Cast<to=10>(head) h32 = Cast<to=1>(h16) l = MatMul(n, h32) logits = Add(l, bias)"


def rewritten(model: onnx.ModelProto, own: np.ndarray) -> Network:
    return with_vocabulary(read_network(model), own, TOKENS, {})


def ran(network: Network, ids: np.ndarray) -> np.ndarray:
    return execute(ir.to_proto(network.model), {"ids": ids})["logits"]


@pytest.mark.parametrize(
    ("head", "also"),
    [
        (UNTIED, {}),
        (TIED, {}),
        (ROWS, {}),
        (CAPPED, {"bias": normal(bias=(TOKENS,))["bias"], "cap": 30.0}),
        (CAST, {}),
        (UNTIED, {"bias": [0.0] * TOKENS}),
    ],
    ids=["untied", "tied", "rows", "capped", "cast", "bias of zeros"],
)
@pytest.mark.parametrize("own", [OWN, FEWER], ids=["more", "fewer"])
def test_each_token_does_what_it_did_under_its_old_id(
    head: str, also: Mapping[str, ArrayLike], own: np.ndarray
) -> None:
    model = language_model(TOKENS, head=head, also=also)
    found = rewritten(model, own)
    kept = np.flatnonzero(own >= 0)
    new = np.random.default_rng(0).choice(kept, (4, LENGTH))
    before, after = execute(model, {"ids": own[new]})["logits"], ran(found, new)
    assert after.shape == (4, LENGTH, len(own))
    assert np.allclose(after[..., kept], before[..., own[kept]], atol=1e-5)
    assert found.graph.outputs[0].shape is not None
    assert list(found.graph.outputs[0].shape)[-1] == len(own)


def test_a_token_that_is_lacking_gets_the_mean_row() -> None:
    model = language_model(TOKENS)
    found = rewritten(model, OWN).weights
    table = read_network(model).weights["table"]
    assert np.array_equal(found["table"][[2, 6]], np.tile(table.astype(np.float64).mean(axis=0), (2, 1)).astype("f4"))
    assert np.array_equal(found["table"][OWN >= 0], table[OWN[OWN >= 0]])


def test_a_mean_row_leaves_out_what_is_infinite() -> None:
    model = language_model(TOKENS, also={"bias": np.array([-np.inf, *range(11)], np.float32)})
    assert rewritten(model, OWN).weights["bias"][2] == np.mean(range(11))


PADDING = "same = Equal(ids, pad) known = Where(same, other, ids)"
COMPARED = "late = Greater(ids, pad) known = Where(late, ids, ids)"


@pytest.mark.parametrize(
    ("nodes", "also", "says"),
    [
        (PADDING, {"pad": 5, "other": 5}, None),
        (PADDING, {"pad": 3, "other": 5}, "knows token id 3"),
        (PADDING, {"pad": -100, "other": 5}, None),
        (PADDING, {"pad": -100, "other": 1}, "knows token id 1"),
        (PADDING, {"pad": 12, "other": 5}, "knows token id 12"),
        (COMPARED, {"pad": 2}, "computes with token ids"),
        ("known = Add(ids, pad)", {"pad": 0}, "no integer input looks up a table"),
        ("narrow = Cast<to=6>(ids) known = Cast<to=7>(narrow)", {}, None),
    ],
    ids=["kept", "padding", "no id", "put in", "new id", "compared", "computed", "cast"],
)
def test_ids_that_the_network_itself_knows(nodes: str, also: dict[str, int], says: str | None) -> None:
    own = np.array([0, 2, 1, 4, 3, 5, *range(6, 12), -1])
    model = language_model(TOKENS, ids=nodes, also={name: np.int64(value) for name, value in also.items()})
    if says is None:
        assert rewritten(model, own).graph.outputs
    else:
        with pytest.raises(InputError, match=says):
            rewritten(model, own)


@pytest.mark.parametrize(("pad", "refused"), [(3.0, True), (5.0, False), (3.5, False)])
def test_ids_that_are_compared_as_floats(pad: float, refused: bool) -> None:  # noqa: FBT001
    own = np.array([0, 1, 2, 4, 3, 5, *range(6, 12), -1])
    nodes = "f = Cast<to=1>(ids) same = Equal(f, pad) known = Where(same, other, ids)"
    model = language_model(TOKENS, ids=nodes, also={"pad": np.float32(pad), "other": np.int64(5)})
    if not refused:
        assert rewritten(model, own).graph.outputs
        return
    with pytest.raises(InputError, match="knows token id 3"):
        rewritten(model, own)


def bert(tokens: int, positions: int) -> onnx.ModelProto:
    """An encoder with a table for ids, one for positions and one for kinds, which are inputs all three."""
    nodes = """(int64[n,4] ids, int64[n,4] positions, int64[n,4] kinds) => (float[n,4,6] y) {
        a = Gather(table, ids) b = Gather(places, positions) c = Gather(sorts, kinds) s = Add(a, b) t = Add(s, c)
        h = MatMul(t, w1) r = Relu(h) y = MatMul(r, w2)
    }"""
    weights = normal(table=(tokens, 5), places=(positions, 5), sorts=(2, 5), w1=(5, 7), w2=(7, 6))
    return build(nodes, weights)


def test_the_table_of_tokens_is_told_by_its_rows() -> None:
    network = read_network(bert(12, 8))
    assert vocabulary_rows(network, 12, whole=True, label="t") == 12
    found = with_vocabulary(network, OWN, 12, {})
    assert {name: found.weights[name].shape[0] for name in ("table", "places", "sorts")} == {
        "table": 14,
        "places": 8,
        "sorts": 2,
    }
    assert vocabulary_rows(network, 10, whole=False, label="t") == 12
    with pytest.raises(InputError, match=r"t: has 10 tokens, .* rows: 2, 8, 12; give a token for each row"):
        vocabulary_rows(network, 10, whole=True, label="t")
    with pytest.raises(InputError, match="has 8 tokens"):  # of the table of 12, or all of the other's
        vocabulary_rows(network, 8, whole=False, label="t")
    with pytest.raises(InputError, match="has 6 tokens"):  # the table of 8 rows would do as well as that of 12
        vocabulary_rows(network, 6, whole=False, label="t")


PROBABILITIES = "l = MatMul(n, head) b = Add(l, bias) logits = Softmax<axis=-1>(b)"
BANNED = "l = MatMul(n, head) b = Add(l, bias) logits = Where(allowed, b, low)"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (bert(12, 12), "which of them has the tokens cannot be told"),
        (language_model(TOKENS, head=PROBABILITIES), "gives logits"),
        (
            language_model(TOKENS, head=BANNED, also={"allowed": np.arange(TOKENS) > 3, "low": -1e4}),
            "'allowed' .* says something of each token",
        ),
        (
            build(
                f"(int64[n,{LENGTH}] ids) => (int64[n,{LENGTH}] y) "
                "{ e = Gather(table, ids) l = MatMul(e, head) y = ArgMax<axis=-1, keepdims=0>(l) }",
                normal(table=(TOKENS, WIDTH), head=(WIDTH, TOKENS)),
            ),
            "axis 1 of initializer 'head' has 12 positions, as many as there are tokens",
        ),
        (
            build(
                f"(int64[n,{LENGTH}] ids) => (float[n,{LENGTH},12] y) {{ y = Gather(table, ids) }}",
                normal(table=(12, 12)),
            ),
            "axis",
        ),
    ],
    ids=["two tables", "probabilities", "a mask of tokens", "ids come out", "bigrams"],
)
def test_what_cannot_be_told_or_brought_is_refused(model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rewritten(model, OWN)


def test_networks_without_a_vocabulary_and_tokens_that_none_has() -> None:
    floats = build("(float[n,4] x) => (float[n,3] y) { y = MatMul(x, w) }", normal(w=(4, 3)))
    with pytest.raises(InputError, match="it has no vocabulary"):
        vocabulary_rows(read_network(floats), 3, whole=True, label="t")
    with pytest.raises(InputError, match="has none of the tokens"):
        rewritten(language_model(TOKENS), np.full(4, -1))


def test_weights_beside_the_file_are_read_when_they_are_needed(tmp_path: Path) -> None:
    onnx.save(language_model(TOKENS), tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    found = with_vocabulary(read_network(tmp_path / "a.onnx"), OWN, TOKENS, {"ids": np.full((2, LENGTH), 13)})
    assert found.label == str(tmp_path / "a.onnx")
    assert found.weights["table"].shape == (14, WIDTH)
