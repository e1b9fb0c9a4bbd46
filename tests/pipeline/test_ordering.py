"""Models that are taken as they stand: what is said, and done, where their units seem to stand in other orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from onnxmerge.pipeline import ordering
from tests.graphs import build, normal

GRAPH = "(float[n,12] x) => (float[n,8] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
LINEAR = "(float[n,12] x) => (float[n,8] y) { h = Gemm<transB=1>(x, w1, b1) y = Gemm(h, w2, b2) }"
UNITS = 160
Weights = Mapping[str, np.ndarray]


def drawn(seed: int, units: int = UNITS) -> Weights:
    return normal(w1=(units, 12), b1=(units,), w2=(units, 8), b2=(8,), seed=seed)


def pruned(weights: Weights, seed: int, kept: float) -> Weights:
    """Each entry of a matrix kept by chance, and biases tuned: what is equal in all models is no weight."""
    rng = np.random.default_rng(seed)
    learnt = normal(b1=weights["b1"].shape, b2=weights["b2"].shape, scale=0.1, seed=seed)
    return {
        name: own + learnt[name] if name in learnt else own * (rng.random(own.shape) < kept)
        for name, own in weights.items()
    }


WEIGHTS = drawn(1)
NEAR = {name: array + 0.3 * normal(v=array.shape, seed=5)["v"] for name, array in WEIGHTS.items()}
ORDER = np.random.default_rng(3).permutation(UNITS)
PERMUTED = {**WEIGHTS, "w1": WEIGHTS["w1"][ORDER], "b1": WEIGHTS["b1"][ORDER], "w2": WEIGHTS["w2"][ORDER]}
CONSTANT = {**WEIGHTS, "w1": np.ones((UNITS, 12), np.float32), "w2": np.zeros((UNITS, 8), np.float32)}
TURN = np.linalg.qr(np.random.default_rng(2).standard_normal((UNITS, UNITS)))[0].astype(np.float32)
TURNED = {**WEIGHTS, "w1": TURN @ WEIGHTS["w1"], "b1": TURN @ WEIGHTS["b1"], "w2": TURN @ WEIGHTS["w2"]}


@pytest.mark.parametrize(
    ("graph", "models", "settings", "told"),
    [
        (GRAPH, (WEIGHTS, drawn(2)), {}, True),
        (GRAPH, (WEIGHTS, drawn(2)), {"method": "rebasin"}, False),
        (GRAPH, (WEIGHTS, drawn(2)), {"rotate": True}, True),
        (GRAPH, (WEIGHTS, drawn(2)), {"share": 0.5}, True),
        (GRAPH, (WEIGHTS, PERMUTED), {}, True),
        (GRAPH, (WEIGHTS, NEAR), {}, False),
        (GRAPH, (WEIGHTS, NEAR), {"rotate": True}, False),
        (GRAPH, (WEIGHTS, NEAR), {"share": 0.5}, False),
        (GRAPH, (WEIGHTS, WEIGHTS), {}, False),
        (GRAPH, (WEIGHTS, CONSTANT), {}, False),
        (GRAPH, (pruned(WEIGHTS, 1, 0.22), pruned(WEIGHTS, 2, 0.22)), {}, False),
        (GRAPH, (pruned(WEIGHTS, 1, 0.22), pruned(NEAR, 2, 0.22)), {}, False),
        (GRAPH, (pruned(WEIGHTS, 1, 0.22), pruned(drawn(2), 2, 0.22)), {}, True),
        (GRAPH, (pruned(WEIGHTS, 1, 0.22), pruned(PERMUTED, 2, 0.22)), {}, True),
        (GRAPH, (pruned(WEIGHTS, 1, 0.05), pruned(WEIGHTS, 2, 0.05)), {}, False),
        (LINEAR, (WEIGHTS, TURNED), {}, True),
        (LINEAR, (WEIGHTS, TURNED), {"rotate": True}, False),
    ],
    ids=[
        *("another training", "matched", "rotated elsewhere", "in part", "permuted copy", "fine-tune"),
        *("fine-tune, rotated elsewhere", "fine-tune, in part", "itself", "nothing to tell by"),
        *("two prunings", "pruned fine-tunes", "pruned, of two trainings", "pruned permuted copy"),
        *("prunings with little in common", "turned copy", "turned copy, turned back"),
    ],
)
def test_an_average_of_models_in_other_orders_says_so(
    graph: str, models: tuple[Weights, Weights], settings: dict[str, Any], *, told: bool
) -> None:
    given = {"method": "average", "repair": "none", **settings}
    notes = merge([build(graph, own) for own in models], **given).report.notes
    assert any("seem to stand in another order" in note for note in notes) == told


def test_not_all_of_a_large_network_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its units say for sure that fine-tunes stand in the order of the base; of others all are asked."""
    base = drawn(1, 10_000)
    near = [{name: own + 0.1 * normal(v=own.shape, seed=5)["v"] for name, own in base.items()}, base]
    asked = list[object]()

    def alike(_plan: object, _first: object, other: object, _perms: object) -> float:
        asked.append(other)
        return 1.0

    monkeypatch.setattr(ordering, "alike", alike)
    models: list[onnx.ModelProto] = [build(GRAPH, own) for own in near]
    merge(models, base=build(GRAPH, base), method="task-arithmetic")
    assert not asked
    merge([models[0], build(GRAPH, drawn(2, 10_000))], base=build(GRAPH, base), method="task-arithmetic")
    assert len(asked) == 1
