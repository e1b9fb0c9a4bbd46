"""Which units of two models were matched, one by one, and how alike they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge import merge
from onnxmerge.matching.matched_units import pairing
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import identity, random_permutations
from tests.axes.typed import typed
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"


def models(seeds: int = 2) -> list[onnx.ModelProto]:
    return [build(MLP, normal(w1=(6, 5), w2=(5, 3), seed=seed)) for seed in range(seeds)]


CALIB = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("own", "other", "partners", "paired"),
    [
        ([0, 1, 2], [2, 0, 1], [1, 2, 0], [True, True, True]),
        ([0, 0, 1], [0, 1, 1], [0, 2, 1], [True, False, True]),  # two of the first meet one of the other
        ([0, 1, 2], [3, 3, 3], [0, 1, 2], [False, False, False]),
    ],
)
def test_units_of_a_zip_are_paired_once(
    own: list[int], other: list[int], partners: list[int], paired: list[bool]
) -> None:
    typing = typed(build(MLP, normal(w1=(6, 3), w2=(3, 3))))
    plan = make_plan(typing)
    (name,) = (space for space, each in typing.spaces.items() if each.free)
    found = pairing({name: np.array(own)}, {name: np.array(other)}, plan)
    assert found.permutations[name].tolist() == partners
    assert found.paired[name].tolist() == paired


def test_a_zip_that_is_a_permutation_is_paired_as_one(shared: object) -> None:
    typing = onnxmerge.inspect(f"{shared}/pairs/cifar5-vit/a.onnx").prepared.typing  # heads, and units inside them
    plan = make_plan(typing)
    perms = random_permutations(plan.spaces, 3)
    labels = {name: np.argsort(perm, axis=-1) for name, perm in perms.items()}
    outer = {name: perm for name, perm in perms.items() if not plan.spaces[name].varies_with}
    found = pairing(identity(plan.spaces), labels, plan)
    for name, perm in outer.items():
        assert np.array_equal(found.permutations[name], perm)
    assert all(np.all(np.sort(perm, axis=-1) == np.arange(perm.shape[-1])) for perm in found.permutations.values())


@pytest.mark.parametrize(("method", "kind"), [("act-align", "activations"), ("rebasin", "weights")])
def test_means_are_those_of_the_search(method: str, kind: str) -> None:
    found = merge(models(), calibration=CALIB, method=method, details=True)
    assert found.details is not None
    (group,) = found.details.groups
    (similarity,) = group.similarity
    (told,) = found.report.groups
    assert np.mean(getattr(similarity, kind)) == pytest.approx(told.similarity_after)
    assert np.mean(getattr(similarity, f"{kind}_before")) == pytest.approx(told.similarity_before)
