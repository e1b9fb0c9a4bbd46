from __future__ import annotations

import numpy as np

from onnxmerge.merging.closed_form.ridge import Problem, ridge


def test_a_ridge_smaller_than_the_rounding_of_products_is_raised() -> None:
    products = np.diag([1.0, 1.0, -1e-3])[None]
    problem = Problem(np.zeros((1, 3)), np.zeros((1, 2)), products, np.ones((1, 3, 2)), np.ones((1, 2)))
    found = ridge(problem, np.zeros((1, 2, 3)), 1e-5)
    np.testing.assert_allclose(found[0, :, :2], 1.0, rtol=0.02)
    assert np.isfinite(found).all()
