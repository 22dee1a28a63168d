"""The ridge of a covariance against scikit-learn's shrinkage, on random samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcore.shrinkage import ENOUGH, ridge_for


@pytest.mark.parametrize(("samples", "features"), [(30, 8), (30, 20), (50, 60), (21, 200)])
def test_few_samples_are_shrunk_as_scikit_learn_shrinks_them(samples: int, features: int) -> None:
    from sklearn.covariance import oas

    chance = np.random.default_rng(samples)
    values = chance.normal(size=(samples, features)) * np.geomspace(1, 0.01, features)
    shrunk, share = oas(values)
    covariance = np.cov(values.T, bias=True)
    ridge = ridge_for(covariance, samples, 1e-3)
    assert ridge == pytest.approx(min(share, 0.5) / (1 - min(share, 0.5)))
    assert ridge_for(torch.tensor(covariance), samples, 1e-3) == pytest.approx(ridge)
    if share < 0.5:
        # the same matrix up to a factor
        added = covariance + ridge * np.trace(covariance) / features * np.eye(features)
        np.testing.assert_allclose(added * (1 - share), shrunk, rtol=1e-9, atol=1e-12)


def test_many_samples_keep_the_given_ridge() -> None:
    covariance = np.diag(np.arange(1.0, 6.0))
    assert ridge_for(covariance, ENOUGH * 5, 1e-3) == 1e-3
    assert ridge_for(covariance, ENOUGH * 5 - 1, 1e-3) > 1e-3 and ridge_for(covariance, 7, 9.0) == 9.0
    assert ridge_for(covariance, 7, 0.0) == 0.0
    assert ridge_for(np.zeros((5, 5)), 3, 1e-3) == ridge_for(np.eye(5), 3, 1e-3) == 1e-3
