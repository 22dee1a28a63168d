"""Shapley values of the players of a game, by random orders in antithetic pairs (method §15).

The value of a player is the mean, over all orders in which players can join, of what it adds when it joins. A value
here is a mean over parts, such as the Boundary F1 of a model over images. The Shapley value is then the mean of the
parts' Shapley values, so every part has orders of its own: their errors are independent, and for the same number of
evaluations the error of the mean is smaller than with orders that all parts share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medcore.errors import ConfigError

Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.intp]

#: Takes an order of all G players. Returns the value of each coalition on the way, (G + 1, …): that of the empty one
#: first, then that of the first player, of the first two, and so on.
Walk = Callable[[Order], Floats]


@dataclass(frozen=True)
class Estimate:
    """Estimated Shapley values.

    Attributes:
        values: (G, …), one a player. Their sum is exactly v(all) − v(none), whatever the number of orders.
        errors: (G, …), standard errors of `values` that come from the choice of orders. NaN with a single pair of
            orders, which shows no spread.
        pairs: pairs of orders of each part.
    """

    values: Floats
    errors: Floats
    pairs: int


def contributions(walk: Walk, order: Order) -> Floats:
    """Return what each player adds when the players join in this order, (G, …)."""
    steps = np.diff(walk(order), axis=0)
    added = np.empty_like(steps)
    added[order] = steps
    return added


def antithetic_pair(walk: Walk, players: int, random: np.random.Generator) -> Floats:
    """Return the mean of what each player adds over a random order and its reverse, (G, …).

    A player that joins early in one order joins late in the other. What it adds depends on that in most games, so the
    mean of a pair has less spread than that of two independent orders.
    """
    order = random.permutation(players)
    added: Floats = (contributions(walk, order) + contributions(walk, order[::-1])) / 2
    return added


def seeded_pair(walk: Walk, players: int, *, seed: int, number: int, part: int) -> Floats:
    """Return the contributions of one pair of orders for one part, (G, …).

    Args:
        walk: the part's game.
        players: G.
        seed: seed of all orders.
        number: which pair of this part.
        part: which part. Seed, number and part decide the order, so that an interrupted estimate continues with the
            same orders.
    """
    return antithetic_pair(walk, players, np.random.default_rng([seed, number, part]))


def estimate(samples: Floats) -> Estimate:
    """Return the mean of contributions and its standard error.

    Args:
        samples: (P, K, G, …), P independent pairs of orders of each of K parts.
    """
    pairs, parts = samples.shape[:2]
    values: Floats = samples.mean(axis=(0, 1))
    if pairs < 2:
        return Estimate(values, np.full_like(values, np.nan), pairs)
    # the mean of K independent means, each over P pairs
    variance = samples.var(axis=0, ddof=1).sum(axis=0) / (pairs * parts**2)
    return Estimate(values, np.sqrt(variance), pairs)


def shapley_values(
    walks: Sequence[Walk],
    players: int,
    *,
    pairs: int,
    tolerance: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate the Shapley values of a game whose value is a mean over parts.

    One pair of orders evaluates 2·(G + 1) coalitions of every part.

    Args:
        walks: one a part.
        players: G.
        pairs: most pairs of orders of each part.
        tolerance: stop as soon as no standard error is larger, after two pairs at least. 0: take all pairs.
        seed: seed of the orders.
        progress: called with the numbers of finished and of all pairs.

    Raises:
        ConfigError: there are no parts, players or pairs.
    """
    if not walks or players < 1 or pairs < 1:
        raise ConfigError(f"Shapley values: {len(walks)} images, {players} groups and {pairs} pairs; give one of each")
    samples: list[Floats] = []
    for number in range(pairs):
        pair = [seeded_pair(walk, players, seed=seed, number=number, part=part) for part, walk in enumerate(walks)]
        samples.append(np.stack(pair))
        if progress is not None:
            progress(number + 1, pairs)
        found = estimate(np.stack(samples))
        if number and tolerance > 0 and bool((found.errors <= tolerance).all()):
            break
    return found
