"""Second-order orders and curves against weighted least squares by numpy.linalg.lstsq, set by set."""

from __future__ import annotations

import numpy as np
import pytest

from medcore.errors import DataError
from medcore.scoring.second_order import RIDGE, Removal, remove_all

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def case(groups: int, inner: int, outputs: int = 5, seed: int = 0) -> Case:
    """Covariance of correlated inputs, metric and weight."""
    generator = np.random.default_rng(seed)
    features = groups * inner
    mixing = generator.normal(size=(features, features)) * generator.lognormal(size=features)
    inputs = generator.normal(size=(3 * features, features)) @ mixing
    gradients = generator.normal(size=(2 * outputs, outputs)) * generator.lognormal(size=outputs)
    return np.cov(inputs.T, bias=True), gradients.T @ gradients, generator.normal(size=(outputs, features))


def refit_loss(given: Case, kept: list[int], inner: int, ridge: float = RIDGE) -> float:
    """min over W' without the other groups of tr(S·(W − W')·(G + r·I)·(W − W')ᵀ), by ordinary least squares.

    The loss is the squared norm of F·(W − W')ᵀ·R with FᵀF = G + r·I and R·Rᵀ = S, and R is no matter to the best W'.
    """
    covariance, metric, weight = given
    total = covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    factor = np.linalg.cholesky(total).T
    columns = [group * inner + entry for group in kept for entry in range(inner)]
    target = factor @ weight.T @ np.linalg.cholesky(metric)
    solution = np.linalg.lstsq(factor[:, columns], target, rcond=None)[0]
    return float(np.square(target - factor[:, columns] @ solution).sum())


def check_curve(given: Case, found: Removal, inner: int) -> None:
    """Every point of the curve is the loss of its set; the curve never increases and ends in 0."""
    groups = len(found.order)
    assert sorted(found.order) == list(range(groups)) and found.curve.shape == (groups + 1,)
    assert found.curve[-1] == 0 and (np.diff(found.curve) <= 0).all()
    for kept in range(groups + 1):
        expected = refit_loss(given, list(found.order[groups - kept :]), inner)
        assert found.curve[kept] == pytest.approx(expected, rel=1e-8, abs=1e-9 * found.curve[0])


@pytest.mark.parametrize(("groups", "inner"), [(9, 1), (5, 3), (1, 2), (2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_removal_is_that_of_solving_again(groups: int, inner: int, seed: int) -> None:
    given = case(groups, inner, seed=seed)
    found = remove_all(*given, inner)
    check_curve(given, found, inner)
    left = list(range(groups))
    for removed in found.order:
        # the best next group by solving again for each candidate
        losses = {group: refit_loss(given, [each for each in left if each != group], inner) for group in left}
        assert removed == min(losses, key=lambda group: losses[group])
        left.remove(removed)


@pytest.mark.parametrize(("groups", "inner"), [(60, 1), (50, 2)])
def test_several_at_a_time_have_exact_curves_too(groups: int, inner: int) -> None:
    given = case(groups, inner)
    check_curve(given, remove_all(*given, inner, one_by_one=10), inner)


def test_several_at_a_time_end_near_one_at_a_time() -> None:
    given = case(200, 1, outputs=30, seed=4)
    fast, slow = remove_all(*given), remove_all(*given, one_by_one=200)
    # the loss of keeping nothing depends on no order
    assert fast.curve[0] == pytest.approx(slow.curve[0])
    np.testing.assert_allclose(fast.curve[:150], slow.curve[:150], rtol=0.05)


def test_keeping_nothing_costs_the_whole_output() -> None:
    covariance, metric, weight = case(30, 1)
    ridge = RIDGE * np.trace(covariance) / 30
    expected = np.trace(metric @ weight @ (covariance + ridge * np.eye(30)) @ weight.T)
    assert remove_all(covariance, metric, weight).curve[0] == pytest.approx(expected)


def test_doubled_channels_are_free_and_dead_ones_go_first() -> None:
    covariance, metric, weight = case(6, 1)
    # channel 6 repeats channel 2, and channel 7 is always 0
    inputs = np.linalg.cholesky(covariance).T
    inputs = np.concatenate([inputs, inputs[:, [2]], np.zeros((6, 1))], axis=1)
    found = remove_all(inputs.T @ inputs, metric, np.concatenate([weight, weight[:, :2]], axis=1), ridge=1e-9)
    assert found.order[0] == 7 and found.order[1] in (2, 6)
    assert found.curve[6] < 1e-6 * found.curve[0]


def test_inputs_that_never_vary_cost_nothing() -> None:
    found = remove_all(np.zeros((4, 4)), np.eye(2), np.ones((2, 4)))
    assert np.isfinite(found.curve).all() and sorted(found.order) == [0, 1, 2, 3]


def test_equal_groups_go_by_index() -> None:
    assert list(remove_all(np.eye(5), np.eye(3), np.ones((3, 5))).order) == [0, 1, 2, 3, 4]


def test_repetition_gives_the_same_bits() -> None:
    one, other = (remove_all(*case(120, 1)) for _ in range(2))
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_array_equal(one.curve, other.curve)


def test_no_group_and_wrong_inputs() -> None:
    empty = remove_all(np.zeros((0, 0)), np.eye(2), np.zeros((2, 0)))
    assert len(empty.order) == 0 and empty.curve.tolist() == [0.0]
    covariance, metric, weight = case(4, 2)
    with pytest.raises(ValueError, match="groups have 3 features"):
        remove_all(covariance, metric, weight, 3)
    with pytest.raises(DataError, match="not finite"):
        remove_all(covariance * np.nan, metric, weight, 2)


def test_a_covariance_that_rounding_makes_indefinite_gets_a_larger_ridge() -> None:
    generator = np.random.default_rng(3)
    weight = generator.normal(size=(4, 6))
    covariance = 1e-6 * np.eye(6) - 1e-4 * np.diag([0, 0, 0, 0, 0, 1.0]) + 2e-4 * np.diag([1.0, 0, 0, 0, 0, 0])
    removal = remove_all(covariance, np.eye(4), weight)
    assert sorted(removal.order) == list(range(6)) and np.isfinite(removal.curve).all()
    mean = np.trace(covariance) / 6
    damped = covariance + 10 * mean * np.eye(6)
    assert removal.curve[0] == pytest.approx(np.trace(weight @ damped @ weight.T))
