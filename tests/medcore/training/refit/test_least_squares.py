"""Fits of a linear layer against NumPy's least squares and against errors that are computed token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcore.training.refit.least_squares import Moments, Origin, Sums

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def problem(seed: int, tokens: int = 300, inputs: int = 7, outputs: int = 5, mean: float = 3.0) -> Arrays:
    """Features, targets and a layer to start from; features are correlated and far from 0."""
    random = np.random.default_rng(seed)
    features = (
        random.normal(size=(tokens, inputs)) @ (np.eye(inputs) + random.uniform(-0.2, 0.2, (inputs, inputs))) + mean
    )
    targets = features @ random.normal(size=(inputs, outputs)) + random.normal(size=(tokens, outputs)) - mean
    return features.astype(np.float32), targets.astype(np.float32), random.normal(size=(outputs, inputs))


def moments_of(features: np.ndarray, targets: np.ndarray, batch: int = 300) -> Moments:
    a, t = torch.from_numpy(features), torch.from_numpy(targets)
    origin = Origin.of(a[:batch], t[:batch])
    total = Sums.of(a[:batch], t[:batch], origin)
    for start in range(batch, len(a), batch):
        total = total + Sums.of(a[start : start + batch], t[start : start + batch], origin)
    return Moments.of(total, origin)


@pytest.mark.parametrize("seed", range(3))
def test_without_ridge_it_is_least_squares(seed: int) -> None:
    features, targets, start = problem(seed)
    moments = moments_of(features, targets)
    weight = moments.solve(torch.from_numpy(start), ridge=0.0)
    assert weight is not None
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    expected = np.linalg.lstsq(wide, targets.astype(np.float64), rcond=None)[0].T
    np.testing.assert_allclose(weight, expected[:, :-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moments.bias(weight), expected[:, -1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_with_ridge_it_is_the_normal_equation_around_the_start(ridge: float) -> None:
    features, targets, start = problem(4)
    weight = moments_of(features, targets).solve(torch.from_numpy(start), ridge)
    assert weight is not None
    a, t = features.astype(np.float64), targets.astype(np.float64)
    a, t = a - a.mean(axis=0), t - t.mean(axis=0)
    # least squares with the ridge as further rows, an independent form of the same minimum
    damping = np.sqrt(ridge * a.var(axis=0).mean() * len(a))
    rows = np.concatenate([a, damping * np.eye(a.shape[1])])
    rest = np.concatenate([t - a @ start.T, np.zeros((a.shape[1], t.shape[1]))])
    expected = start + np.linalg.lstsq(rows, rest, rcond=None)[0].T
    np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-4)


def test_errors_are_those_of_the_tokens() -> None:
    features, targets, start = problem(5)
    moments = moments_of(features, targets)
    bias = np.random.default_rng(0).normal(size=targets.shape[1])
    expected = np.square(targets - features @ start.T - bias).sum(axis=1).mean()
    assert moments.error(torch.from_numpy(start), torch.from_numpy(bias)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(moments.gram, np.cov(features.T, bias=True), rtol=1e-4, atol=1e-4)
    assert float(moments.spread) == pytest.approx(targets.var(axis=0).sum(), rel=1e-5)


def test_batches_give_the_same_moments() -> None:
    features, targets, _ = problem(6, mean=100.0)
    whole = moments_of(features, targets)
    for batch in (1, 7, 299):
        other = moments_of(features, targets, batch)
        for name in ("features", "targets", "gram", "cross", "spread"):
            one, two = getattr(whole, name), getattr(other, name)
            assert float((one - two).abs().max()) < 1e-6 * max(1.0, float(one.abs().max())) * 10


@pytest.mark.parametrize("kind", ["twice the same", "constant", "too few tokens"])
def test_dependent_features_have_no_solution_without_ridge(kind: str) -> None:
    features, targets, start = problem(7)
    if kind == "twice the same":
        features[:, 3] = 2 * features[:, 1]
    if kind == "constant":
        features[:, 3] = 5
    if kind == "too few tokens":
        features, targets = features[:6], targets[:6]
    moments = moments_of(features, targets, len(features))
    assert moments.solve(torch.from_numpy(start), ridge=0.0) is None
    weight = moments.solve(torch.from_numpy(start), ridge=1e-3)
    assert weight is not None and weight.isfinite().all()


def test_features_that_never_change_have_no_solution() -> None:
    _, targets, start = problem(8)
    moments = moments_of(np.ones((300, 7), np.float32), targets)
    assert moments.solve(torch.from_numpy(start), ridge=1e-3) is None


def test_a_number_that_is_not_finite_is_seen() -> None:
    features, targets, _ = problem(9)
    assert moments_of(features, targets).finite
    features[5, 2] = np.inf
    assert not moments_of(features, targets).finite
