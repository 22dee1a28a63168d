"""Promotion between fidelities, against a plain reading of its rule."""

from __future__ import annotations

import numpy as np

from search.base.promotion import Quota, continues, is_crowded


def none(promoted: np.ndarray) -> np.ndarray:
    return np.zeros(len(promoted), dtype=bool)


def dominated(losses: np.ndarray, row: int) -> bool:
    return any(
        all(a <= b for a, b in zip(other, losses[row], strict=True))
        and any(a < b for a, b in zip(other, losses[row], strict=True))
        for other in losses
    )


def test_dominated_trials_stop_and_those_that_dominate_go_on() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        losses = random.integers(0, 6, size=(random.integers(2, 12), 2)).astype(float)
        promoted = random.random(len(losses) - 1) < 0.5
        decision = continues(losses, promoted, none(promoted), Quota(3, 0))
        beaten = [i for i in np.flatnonzero(promoted) if dominated(losses[[i, -1]], 0)]
        if dominated(losses, len(losses) - 1):
            assert not decision
        elif beaten:
            assert decision
        elif promoted.sum() >= -(-len(losses) // 3):
            assert not decision


def test_the_share_that_goes_on_is_limited_and_the_first_ones_always_do() -> None:
    """All trials are on one front, so only their number and their spacing decide."""
    random = np.random.default_rng(1)
    cost = random.permutation(60) / 60
    losses, promoted = np.stack([cost, 1 - cost], axis=1), np.zeros(0, dtype=bool)
    for count in range(1, 61):
        decision = continues(losses[:count], promoted, none(promoted), Quota(3, 4))
        assert decision or count > 2
        promoted = np.append(promoted, decision)
        assert promoted.sum() <= max(4, -(-count // 3))
    assert promoted.sum() >= 15


def test_a_trial_next_to_one_that_went_on_stops() -> None:
    every = np.ones(3, dtype=bool)
    losses = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.51, 0.49]])
    assert is_crowded(losses[3], losses[:3], losses)
    assert not continues(losses, every, ~every, Quota(2, 10))
    apart = np.array([*losses[:3], [0.25, 0.75]])
    assert not is_crowded(apart[3], apart[:3], apart)
    assert continues(apart, every, ~every, Quota(2, 10))


def test_those_that_had_to_go_on_do_not_fill_the_quota() -> None:
    losses = np.array([[0.0, 1.0], [0.4, 0.6], [1.0, 0.0], [0.7, 0.3]])
    every = np.ones(3, dtype=bool)
    assert continues(losses, every, every, Quota(3, 1))
    assert not continues(losses, every, np.array([True, True, False]), Quota(3, 1))
    dominated_by_one = np.array([*losses[:3], [0.5, 0.7]])
    assert not continues(dominated_by_one, every, every, Quota(3, 1))


def test_figures_that_are_not_finite_stop_a_trial() -> None:
    bad, other = np.array([[1.0, np.nan]]), np.array([[1.0, np.nan], [1.0, 2.0]])
    assert not continues(bad, np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), Quota())
    for promoted in (False, True):
        assert continues(other, np.array([promoted]), np.array([False]), Quota())
