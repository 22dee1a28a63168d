"""Shapley values of games whose values are all known."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.scoring.shapley import (
    Floats,
    Order,
    Walk,
    antithetic_pair,
    contributions,
    estimate,
    shapley_values,
)

PLAYERS = 5


def game(seed: int) -> Floats:
    """Random value of each coalition of five players, by the coalition as a binary number; some synergy by size."""
    random = np.random.default_rng(seed)
    sizes = np.array([bin(coalition).count("1") for coalition in range(2**PLAYERS)])
    return random.normal(size=2**PLAYERS) + np.sqrt(sizes)


def walk_in(table: Floats) -> Walk:
    def walk(order: Order) -> Floats:
        return table[np.concatenate([[0], np.cumsum(2 ** np.asarray(order))])]

    return walk


def by_subsets(table: Floats) -> Floats:
    """Shapley's own formula: the weighted sum over all coalitions without the player."""
    values = np.zeros(PLAYERS)
    for player in range(PLAYERS):
        others = [other for other in range(PLAYERS) if other != player]
        for size in range(PLAYERS):
            weight = factorial(size) * factorial(PLAYERS - size - 1) / factorial(PLAYERS)
            for coalition in combinations(others, size):
                code = sum(2**other for other in coalition)
                values[player] += weight * (table[code + 2**player] - table[code])
    return values


def test_all_orders_give_the_formula_over_all_subsets() -> None:
    table = game(0)
    orders = [np.array(order) for order in permutations(range(PLAYERS))]
    mean = np.mean([contributions(walk_in(table), order) for order in orders], axis=0)
    np.testing.assert_allclose(mean, by_subsets(table), atol=1e-12)


def test_an_estimate_approaches_the_formula_within_its_errors() -> None:
    tables = [game(seed) for seed in range(3)]
    found = shapley_values([walk_in(table) for table in tables], PLAYERS, pairs=400)
    expected = np.mean([by_subsets(table) for table in tables], axis=0)
    assert found.pairs == 400 and found.errors.max() < 0.03
    assert (np.abs(found.values - expected) < 4 * found.errors).all()


@pytest.mark.parametrize("pairs", [1, 3])
def test_values_sum_to_the_value_of_all_less_that_of_none(pairs: int) -> None:
    tables = [np.stack([game(seed), game(seed + 9)], axis=1) for seed in range(2)]
    found = shapley_values([walk_in(table) for table in tables], PLAYERS, pairs=pairs)
    expected = np.mean([table[-1] - table[0] for table in tables], axis=0)
    assert found.values.shape == found.errors.shape == (PLAYERS, 2)
    np.testing.assert_allclose(found.values.sum(axis=0), expected, rtol=1e-12)
    assert np.isnan(found.errors).all() == (pairs == 1)


def test_standard_errors_are_the_spread_of_repeated_estimates() -> None:
    walks = [walk_in(game(seed)) for seed in range(3)]
    repeats = [shapley_values(walks, PLAYERS, pairs=6, seed=seed) for seed in range(200)]
    spread = np.std([each.values for each in repeats], axis=0)
    claimed = np.sqrt(np.mean([each.errors**2 for each in repeats], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.15)


def test_a_pair_spreads_less_than_two_independent_orders() -> None:
    """Where a player adds less the later it joins, what two opposite orders say cancels."""
    worth = np.arange(1.0, PLAYERS + 1)
    random = np.random.default_rng(3)

    def walk(order: Order) -> Floats:
        return np.sqrt(np.concatenate([[0], np.cumsum(worth[order])]))

    pairs = [antithetic_pair(walk, PLAYERS, random) for _ in range(400)]
    singles = [contributions(walk, random.permutation(PLAYERS)) for _ in range(800)]
    assert (np.var(pairs, axis=0) < 0.7 * np.var(singles, axis=0) / 2).all()


def test_it_stops_when_the_errors_are_small() -> None:
    walks, seen = [walk_in(game(1))], []
    full = shapley_values(walks, PLAYERS, pairs=60)
    short = shapley_values(
        walks, PLAYERS, pairs=60, tolerance=2 * full.errors.max(), progress=lambda *at: seen.append(at)
    )
    assert 2 <= short.pairs < 60 and short.errors.max() <= 2 * full.errors.max()
    assert seen == [(number + 1, 60) for number in range(short.pairs)]
    # a game without interaction needs two pairs, no more
    assert shapley_values([lambda order: np.arange(PLAYERS + 1.0)], PLAYERS, pairs=9, tolerance=1e-9).pairs == 2


def test_an_estimate_is_a_mean_over_parts_and_pairs() -> None:
    samples = np.random.default_rng(0).normal(size=(4, 3, 7))
    found = estimate(samples)
    np.testing.assert_allclose(found.values, samples.reshape(12, 7).mean(axis=0))
    by_part = np.stack([samples[:, part].std(axis=0, ddof=1) / 2 for part in range(3)])
    np.testing.assert_allclose(found.errors, np.sqrt((by_part**2).sum(axis=0)) / 3)


@pytest.mark.parametrize(("walks", "players", "pairs"), [(0, 5, 1), (1, 0, 1), (1, 5, 0)])
def test_an_empty_game_is_refused(walks: int, players: int, pairs: int) -> None:
    with pytest.raises(MedcoreError, match="give one of each"):
        shapley_values([walk_in(game(0))] * walks, players, pairs=pairs)
