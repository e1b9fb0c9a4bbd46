from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.matching import zip_objective
from onnxmerge.matching.objective import ModelSimilarity
from onnxmerge.matching.similarity import known_activations, weight_shares
from onnxmerge.matching.zip_objective import ZipObjectiveFunction, retained_in
from onnxmerge.matching.zip_similarity import ModelsToZip, similarities
from onnxmerge.matching.zip_sweeps import unmoved_zip, zip_by_activations, zip_by_weights, zip_group, zip_sweep
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import composite_sources, identity
from onnxmerge.units.zips import Zipped
from tests.matching.structures import STRUCTURES, Example, Weights, example, fixed, random_weights, typing

RULE = ZipRule()


def models_of(case: Example, weights: Sequence[Weights], alpha: float = 1.0) -> ModelsToZip:
    plan = make_plan(case.typing)
    known = {} if alpha == 1.0 else known_activations(plan, case.together, len(weights))
    shares = weight_shares(plan, alpha, known)
    return ModelsToZip(plan, replace(case.typing, spaces=plan.spaces), weights, known, shares)


def unrelated(structure: str, alpha: float = 1.0) -> ModelsToZip:
    """Two random models that have nothing to do with each other."""
    case = example(STRUCTURES[structure](), seed=1, noise=1.5)
    return models_of(case, [random_weights(case.typing, 1), random_weights(case.typing, 2)], alpha)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_keeps_the_best_sweep(structure: str, alpha: float) -> None:
    models = unrelated(structure, alpha)
    start = unmoved_zip(models)
    found = zip_sweep(
        ZipObjectiveFunction(models), start, models.plan.groups, RULE, rng=np.random.default_rng(0), max_sweeps=9
    )
    assert found.similarity.total == max(found.objective)
    assert ZipObjectiveFunction(models)(found.matching).total == pytest.approx(max(found.objective))
    assert found.objective[0] == pytest.approx(ZipObjectiveFunction(models)(start).total)
    assert found.objective[-1] > found.objective[0]


def swept(structure: str, alpha: float, factor: float) -> tuple[Zipped, ModelSimilarity]:
    """Two unrelated models zipped to this many units for each of a model's, which is checked."""
    models = unrelated(structure, alpha)
    widths = {name: round(factor * models.plan.spaces[name].size) for name in models.plan.groups}
    models = replace(models, widths=widths)
    start = (zip_by_weights if alpha == 1.0 else zip_by_activations)(models, RULE)
    found = zip_sweep(
        ZipObjectiveFunction(models), start, models.plan.groups, RULE, rng=np.random.default_rng(0), max_sweeps=9
    )
    assert found.matching.widths == widths
    for name, width in widths.items():
        labels = np.concatenate([own[name] for own in found.matching.models])
        np.testing.assert_array_equal(np.unique(labels), np.arange(width))
    return found.matching, found.similarity


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("structure", ["mlp", "batch_norm", "depthwise_convolution"])
def test_every_width_is_swept_to(structure: str, alpha: float) -> None:
    """More units keep more of the variance; as many as there are in all models keep all of it."""
    kept = [swept(structure, alpha, factor)[1].total for factor in (0.3, 0.75, 1.0, 1.5)]
    assert kept == sorted(kept)
    all_apart, similarity = swept(structure, alpha, 2.0)
    assert kept[-1] < similarity.total == pytest.approx(sum(all_apart.widths.values()))
    assert not similarity.mean


def test_a_head_reads_a_neighbour_of_another_width() -> None:
    """The stream beside the heads is narrower; heads are matched all the same, and keep their sizes."""
    case = example(STRUCTURES["attention"](), seed=2)
    models = models_of(case, [case.first, case.other], 0.5)
    (stream,) = (name for name, group in models.plan.groups.items() if len(group.members) == 1)
    models = replace(models, widths={stream: 4})
    zips = zip_by_weights(models, RULE)
    assert zips.widths == {stream: 4}
    assert sorted(zips.models[1]["h"].tolist()) == [0, 1, 2]


def test_is_deterministic_under_the_seed() -> None:
    models = unrelated("three_levels")
    one, two = (
        zip_sweep(
            ZipObjectiveFunction(models),
            unmoved_zip(models),
            models.plan.groups,
            RULE,
            rng=np.random.default_rng(7),
            max_sweeps=5,
        )
        for _ in range(2)
    )
    assert one.objective == two.objective
    for left, right in zip(one.matching.models, two.matching.models, strict=True):
        for name, labels in left.items():
            np.testing.assert_array_equal(labels, right[name])


@pytest.mark.parametrize("structure", ["mlp", "attention"])
def test_a_meter_says_the_same_without_room_to_keep_anything(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = unrelated(structure, 0.4)
    zips = zip_by_activations(models, RULE)
    objective_of = ZipObjectiveFunction(models)
    kept = objective_of(zips)
    objective_of(unmoved_zip(models))
    assert objective_of(zips) == kept
    monkeypatch.setattr(zip_objective, "CHUNK_BYTES", 0)
    assert ZipObjectiveFunction(models)(zips) == kept


@pytest.mark.parametrize("structure", ["mlp", "batch_norm", "recurrent", "attention", "grouped_convolution"])
def test_what_is_retained_agrees_with_the_similarities(structure: str) -> None:
    models = unrelated(structure, 0.4)
    zips = zip_by_activations(models, RULE)
    for group in models.plan.groups.values():
        for name in (name for name in group.members if not group.children[name]):
            total = 0.0
            found = list(similarities(models, group, name, zips))
            for outer, similarity in enumerate(found):
                targets = [
                    labels[name].reshape(len(found), -1)[order_of(models, name, labels)[outer]]
                    for labels in zips.models
                ]
                total += retained_in(similarity, np.concatenate(targets))
            assert ZipObjectiveFunction(models).retained(group, name, zips).total == pytest.approx(total)


def order_of(models: ModelsToZip, name: str, labels: Any) -> NDArray[np.int64]:
    """Which combination of a model's outer units stands at each place of the first model's order."""
    outers = models.plan.spaces[name].varies_with
    if not outers:
        return np.zeros(1, np.int64)
    (outer,) = outers
    return np.argsort(labels[outer]) if outer in labels else np.arange(models.plan.spaces[outer].size)


def test_variance_retained_is_that_of_the_means() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((8, 30))
    unit = vectors - vectors.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    targets = np.array([0, 0, 1, 2, 3, 1, 1, 3])
    lost = sum(((unit[targets == t] - unit[targets == t].mean(axis=0)) ** 2).sum() for t in range(4))
    assert retained_in(unit @ unit.T, targets) == pytest.approx(8 - lost)


def chain() -> Example:
    spaces = [fixed("x", 30), Space("a", 8), Space("b", 8), Space("c", 8), fixed("y", 2)]
    return example(typing(spaces, {"w1": ["a", "x"], "w2": ["b", "a"], "w3": ["c", "b"], "w4": ["y", "c"]}), seed=5)


def test_the_first_pass_by_weights_works_its_way_in() -> None:
    case = chain()
    models = models_of(case, [case.first, case.other])
    found = zip_by_weights(models, RULE)
    assert ZipObjectiveFunction(models)(found).total == pytest.approx(48)
    # Where a group comes before its neighbours, the order in which they happen to stand hides the truth.
    hasty = zip_group(models, models.plan.groups["b"], unmoved_zip(models), RULE)
    assert not np.array_equal(hasty.models[1]["b"], found.models[1]["b"])


def test_outer_units_are_matched_before_inner_ones_are_zipped() -> None:
    case = example(STRUCTURES["attention"](), seed=2)
    models = models_of(case, [case.first, case.other], 0.5)
    zips = zip_group(models, models.plan.groups["h"], unmoved_zip(models), RULE)
    first, second = zips.models
    np.testing.assert_array_equal(first["h"], identity(case.typing.spaces)["h"])
    assert sorted(second["h"].tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(second["h"][case.truth["h"]], np.arange(3))
    sources = composite_sources("v", case.typing.spaces, case.truth)
    np.testing.assert_array_equal(second["v"][sources], np.broadcast_to(np.arange(4), (3, 4)))
