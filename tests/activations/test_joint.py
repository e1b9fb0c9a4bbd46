"""What several models' units hold together in few directions, against plain principal components."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.activations.joint import joint_variance
from onnxmerge.activations.statistics import Gram
from onnxmerge.types import Floats


def gram(*models: Floats) -> Gram:
    """The Gram of the rows [samples, units] of some models."""
    pairs = [(one, other) for other in range(len(models)) for one in range(other + 1)]
    return Gram(
        len(models[0]),
        np.array([own.sum(axis=0) for own in models]),
        np.array([np.square(own).sum(axis=0) for own in models]),
        {(i, j): models[i].T @ models[j] for i, j in pairs},
    )


def rows(seed: int, samples: int = 400, units: int = 6) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, units)) @ rng.normal(size=(units, units)) + rng.normal(size=units)


def test_it_is_what_singular_values_of_the_scaled_rows_say() -> None:
    models = [rows(seed) for seed in range(3)]
    both = np.concatenate(models, axis=1)
    scaled = (both - both.mean(axis=0)) / both.std(axis=0)
    squares = np.square(np.linalg.svd(scaled, compute_uv=False))
    found = joint_variance(gram(*models), 3)
    assert found is not None
    assert found.kept == pytest.approx(np.cumsum(squares) / squares.sum())


def test_a_model_and_itself_in_another_order_and_scale_fit_into_one() -> None:
    own = rows(0)
    found = joint_variance(gram(own, 3 * own[:, ::-1] + 1), 2)
    assert found is not None
    assert found.share(6) == pytest.approx(1.0)
    assert found.needed(1 - 1e-9) <= 6


def test_units_that_say_different_things_fit_by_half() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 100_000, 4))
    found = joint_variance(gram(one, other), 2)
    assert found is not None
    assert found.share(4) == pytest.approx(0.5, abs=0.02)
    assert found.needed(0.99) == 8
    assert (found.share(0), found.share(100)) == (0.0, 1.0)


def test_units_that_never_change_do_not_count() -> None:
    own = rows(0)
    own[:, 2] = 5.0
    found = joint_variance(gram(own, own), 2)
    assert found is not None
    assert found.share(5) == pytest.approx(1.0)
    still = np.ones((10, 3))
    assert joint_variance(gram(still, still), 2) is None
