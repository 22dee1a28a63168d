"""The knapsack under one limit or several: prices on all limits but the first (method §5, knapsack)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcore.budgets.choices import Problem, bins_of, cheapest, filled, repaired
from medcore.budgets.dynamic import Counts, Floats

#: Most steps of the search for one price, and most passes over all prices.
_STEPS, _PASSES = 40, 6
#: Prices are settled if a pass changes none by more than this share.
_SETTLED = 1e-3


@dataclass(frozen=True)
class Solution:
    """What a knapsack holds.

    Attributes:
        widths: (S,) widths of all sites.
        loss: sum of their losses.
        costs: (M,) sums of their costs.
        multipliers: (M - 1,) prices of the further limits, as `choices.lower_bound` takes them.
    """

    widths: Counts
    loss: float
    costs: Floats
    multipliers: Floats


def solve(problem: Problem) -> Solution | None:
    """Find the choices of least loss within all limits (5.7).

    With one limit the result is the optimum of the rounded costs or better. It is the optimum itself if the costs are
    whole numbers and their common divisor goes into the limit at most 4 · `bins` times. With several limits the result
    meets all of them, and `choices.lower_bound` says how far from the optimum it can be.

    Returns:
        The solution; None if the search found none. With one limit, none exists then, up to rounding.
    """
    multipliers = np.zeros(len(problem.limits) - 1)
    picks: Counts | None = problem.unlimited([site.losses for site in problem.sites])
    # the least loss of all may be within the limits, and rounding must not lose it
    if picks is not None and (problem.room(picks) < 0).any():
        search = _Search(problem)
        multipliers = search.multipliers()
        picks = search.best
    if picks is None:
        return None
    widths = [site.widths[pick] if pick >= 0 else 0 for site, pick in zip(problem.sites, picks, strict=True)]
    return Solution(np.array(widths, dtype=np.int64), problem.loss(picks), problem.costs(picks), multipliers)


@dataclass(frozen=True)
class _Line:
    """The lower bound that one solution gives, as a function of one price: loss + price · excess.

    Attributes:
        loss: loss of the solution, plus what the other prices add.
        excess: its cost less the limit, of the limit that the price belongs to.
    """

    loss: float
    excess: float

    def at(self, price: float) -> float:
        """Return the bound at a price."""
        return self.loss + price * self.excess

    def meets(self, other: _Line) -> float:
        """Return the price at which two lines meet."""
        return (other.loss - self.loss) / (self.excess - other.excess)


class _Search:
    """Solutions with prices on the further limits.

    Attributes:
        best: picks of least loss within all limits that the search has met; None if it has met none.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._bins = problem, bins_of(problem, up=True)
        self.best: Counts | None = None

    def multipliers(self) -> Floats:
        """Return prices near the highest lower bound, (M - 1,), found for one limit after the other."""
        prices = np.zeros(len(self._problem.limits) - 1)
        if self._solved(prices) is None:
            return prices
        for _ in range(_PASSES if len(prices) > 1 else len(prices)):
            before = prices.copy()
            for number in range(len(prices)):
                prices[number] = self._price(prices, number)
            if np.allclose(prices, before, rtol=_SETTLED, atol=0):
                break
        return prices

    def _price(self, prices: Floats, number: int) -> float:
        """Return the price of one limit at which the lower bound is highest, the other prices given.

        The bound is concave in the price and consists of straight lines, one a solution. The next price is where the
        lines on both sides of the top meet.
        """
        low, price = self._line(prices, number, 0.0), _first_price(self._problem, number + 1)
        if low.excess <= 0:
            return 0.0
        high = self._line(prices, number, price)
        for _ in range(_STEPS):
            if high.excess <= 0:
                break
            low, price = high, 4 * price
            high = self._line(prices, number, price)
        else:
            return price  # the limit is out of reach along this path
        for _ in range(_STEPS):
            price = low.meets(high)
            line = self._line(prices, number, price)
            if line.at(price) >= low.at(price) - 1e-12 * abs(low.at(price)):
                break
            low, high = (low, line) if line.excess <= 0 else (line, high)
        return price

    def _line(self, prices: Floats, number: int, price: float) -> _Line:
        """Return the line of the solution at a price of one limit."""
        tried = prices.copy()
        tried[number] = price
        picks = self._solved(tried)
        assert picks is not None  # prices do not change whether the first limit is in reach
        excess = (self._problem.costs(picks) - self._problem.limits)[1:]
        tried[number] = 0.0
        return _Line(self._problem.loss(picks) + float(tried @ excess), float(excess[number]))

    def _solved(self, prices: Floats) -> Counts | None:
        """Solve at some prices and note the picks, brought within all limits, if they are the best so far."""
        picks = cheapest(self._problem, prices, self._bins)
        within = None if picks is None else repaired(self._problem, picks)
        if within is not None:
            within = filled(self._problem, within)
            if self.best is None or self._problem.loss(within) < self._problem.loss(self.best):
                self.best = within
        return picks


def _first_price(problem: Problem, number: int) -> float:
    """Return a price in the order of all loss divided by all cost."""
    loss = sum(float(site.losses.max()) for site in problem.sites)
    total = sum(float(site.costs[number].max()) for site in problem.sites)
    return max(loss, 1e-300) / max(total, 1e-300)
