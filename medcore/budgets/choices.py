"""The knapsack of budgets on plain arrays: least loss under limits of cost (method §5, knapsack).

Every site keeps exactly one of its choices. Dynamic programming over bins of cost meets the first limit. Further limits
enter through prices (a Lagrangian). A greedy fill uses the cost that rounding and prices leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medcore.budgets.dynamic import TOP, Counts, Floats, least_loss

#: Bins of cost by default. More bins lose less to rounding and take longer in proportion.
BINS = 3000
#: Relative tolerance for sums of floating-point costs that meet a limit exactly.
ROUNDING = 1e-9
#: Largest number of bins, as a multiple of `bins`, where more than `bins` pay.
_MOST = 4
#: Largest whole number up to which float64 holds all whole numbers.
_WHOLE = 2.0**53


@dataclass(frozen=True)
class Choices:
    """What one site may keep.

    Attributes:
        widths: (J,) rising widths.
        losses: (J,) predicted losses, finite.
        costs: (M, J) costs, one row a limit, finite and not negative.
    """

    widths: Counts
    losses: Floats
    costs: Floats


@dataclass(frozen=True)
class Problem:
    """Sites, and limits on the sums of their costs.

    Picks are (S,) indices into the choices of each site, -1 for a site whose owner keeps nothing.

    Attributes:
        sites: choices of the S sites.
        limits: (M,) largest sum of each cost; M >= 1.
        owners: index of the site whose group holds a site, or -1; owners come before what they hold. If the owner
            keeps nothing, the sites that it holds keep nothing and have neither cost nor loss.
        bins: bins of cost for the first limit; up to four times as many where they round nothing, or where less than
            half of the cost has to go.
    """

    sites: tuple[Choices, ...]
    limits: Floats
    owners: tuple[int, ...]
    bins: int = BINS

    @cached_property
    def held(self) -> dict[int, list[int]]:
        """Return the sites that each owner holds; those that no group holds are at `TOP`."""
        held: dict[int, list[int]] = {TOP: []}
        for site, owner in enumerate(self.owners):
            held.setdefault(owner, []).append(site)
        return held

    @cached_property
    def losses(self) -> Floats:
        """Return the losses of all choices, (S, J), infinite where a site has fewer than J."""
        most = max(len(site.widths) for site in self.sites)
        grid = np.full((len(self.sites), most), np.inf)
        for row, site in zip(grid, self.sites, strict=True):
            row[: len(site.losses)] = site.losses
        return grid

    @cached_property
    def prices(self) -> Floats:
        """Return the costs of all choices, (M, S, J), infinite where a site has fewer than J."""
        grid = np.full((len(self.limits), *self.losses.shape), np.inf)
        for index, site in enumerate(self.sites):
            grid[:, index, : len(site.widths)] = site.costs
        return grid

    def loss(self, picks: Counts) -> float:
        """Return the sum of losses of picks."""
        kept = np.flatnonzero(picks >= 0)
        return float(self.losses[kept, picks[kept]].sum())

    def costs(self, picks: Counts) -> Floats:
        """Return the sums of costs of picks, (M,)."""
        kept = np.flatnonzero(picks >= 0)
        total: Floats = self.prices[:, kept, picks[kept]].sum(axis=1)
        return total

    def room(self, picks: Counts) -> Floats:
        """Return what picks leave of each limit, (M,); negative where they exceed it."""
        left: Floats = self.limits * (1 + ROUNDING) - self.costs(picks)
        return left

    def unlimited(self, losses: Sequence[Floats]) -> Counts:
        """Return the picks of least loss without regard to limits."""
        weights = [np.zeros(len(loss), dtype=np.int64) for loss in losses]
        picks = least_loss(losses, weights, [site.widths for site in self.sites], 0, self.held)
        assert picks is not None  # a weight of 0 fits into any capacity
        return picks

    def least_cost(self, number: int = 0) -> float:
        """Return the smallest sum of one cost over all choices, without regard to limits."""
        return float(self.costs(self.unlimited([site.costs[number] for site in self.sites]))[number])


@dataclass(frozen=True)
class Bins:
    """The first cost of all choices in bins.

    Attributes:
        weights: S arrays (J,).
        capacity: bins of the limit; below 0 if the least costs exceed it.
    """

    weights: list[Counts]
    capacity: int


def bins_of(problem: Problem, up: bool) -> Bins:
    """Count the first cost in bins (5.8).

    What a site costs at least comes off the limit first, so that bins divide only what there is to decide.
    Whole-numbered costs count in their common divisor, which rounds nothing, if it goes into the limit at most
    4 · `bins` times.

    Args:
        problem: sites and limits.
        up: round costs up, so that the limit holds; otherwise down, so that no choice within the limit is lost.
    """
    costs = [site.costs[0] for site in problem.sites]
    base = [float(cost.min()) if owner == TOP else 0.0 for cost, owner in zip(costs, problem.owners, strict=True)]
    extra = [cost - least for cost, least in zip(costs, base, strict=True)]
    limit = float(problem.limits[0]) - sum(base)
    if limit < -ROUNDING * abs(float(problem.limits[0])):
        return Bins([np.zeros(len(cost), dtype=np.int64) for cost in costs], -1)
    unit, capacity = _unit(extra, max(limit, 0.0), problem.bins)
    # choices beyond the capacity are equally out of reach
    scaled = [np.minimum(cost / unit, capacity + 1.0) for cost in extra]
    rounded = [np.maximum(np.ceil(each - ROUNDING), 0) if up else np.floor(each) for each in scaled]
    return Bins([each.astype(np.int64) for each in rounded], capacity)


def priced(problem: Problem, multipliers: Floats) -> list[Floats]:
    """Return losses of all choices plus their further costs times multipliers, S arrays (J,)."""
    return [site.losses + multipliers @ site.costs[1:] for site in problem.sites]


def cheapest(problem: Problem, multipliers: Floats, bins: Bins) -> Counts | None:
    """Return the picks of least loss plus price within the first limit (5.9); None if it is out of reach."""
    widths = [site.widths for site in problem.sites]
    return least_loss(priced(problem, multipliers), bins.weights, widths, bins.capacity, problem.held)


def lower_bound(problem: Problem, multipliers: Floats) -> float:
    """Return a loss that no choice within the limits can beat (5.10).

    Costs are rounded down to bins here.

    Args:
        problem: sites and limits.
        multipliers: (M - 1,) prices of the further limits, not negative.

    Returns:
        The bound; infinite if no choice meets the first limit.
    """
    picks = cheapest(problem, multipliers, bins_of(problem, up=False))
    if picks is None:
        return float("inf")
    return problem.loss(picks) + float(multipliers @ (problem.costs(picks) - problem.limits)[1:])


def filled(problem: Problem, picks: Counts) -> Counts:
    """Use what picks leave of all limits: take the move of one site that lowers the loss most, until none fits."""
    picks, movable = picks.copy(), _movable(problem, picks)
    while True:
        losses, costs = _changes(problem, picks)
        fits = (costs <= problem.room(picks)[:, None, None]).all(axis=0) & movable[:, None]
        change = np.where(fits, losses, 0.0)
        site, pick = np.unravel_index(int(change.argmin()), change.shape)
        if not change[site, pick] < 0:
            return picks
        picks[site] = pick


def repaired(problem: Problem, picks: Counts) -> Counts | None:
    """Bring picks within all limits: take the move of one site that costs least loss for what it saves.

    Returns:
        The picks; None if no move lowers the excess any more.
    """
    picks, movable = picks.copy(), _movable(problem, picks)
    while ((room := problem.room(picks)) < 0).any():
        losses, costs = _changes(problem, picks)
        scale = np.maximum(problem.limits, 1e-300)
        before = float(np.maximum(-room / scale, 0).sum())
        after = np.maximum((costs - room[:, None, None]) / scale[:, None, None], 0).sum(axis=0)
        saved = np.where(movable[:, None] & np.isfinite(losses), before - after, 0.0)
        helps = saved > ROUNDING * before
        if not helps.any():
            return None
        rate = np.where(helps, losses / np.where(helps, saved, 1.0), np.inf)
        site, pick = np.unravel_index(int(rate.argmin()), rate.shape)
        picks[site] = pick
    return picks


def _movable(problem: Problem, picks: Counts) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return the sites whose width no other site decides and that hold no site, (S,)."""
    return np.array([site not in problem.held and pick >= 0 for site, pick in enumerate(picks)], dtype=np.bool_)


def _changes(problem: Problem, picks: Counts) -> tuple[Floats, Floats]:
    """Return how each choice would change the loss, (S, J), and the costs, (M, S, J).

    Rows of sites without a pick mean nothing.
    """
    rows, at = np.arange(len(picks)), np.maximum(picks, 0)
    losses = problem.losses - problem.losses[rows, at][:, None]
    return losses, problem.prices - problem.prices[:, rows, at][:, :, None]


def _unit(costs: Sequence[Floats], limit: float, bins: int) -> tuple[float, int]:
    """Return the cost of a bin and the bins of the limit."""
    whole = all((cost == np.rint(cost)).all() and cost.max() < _WHOLE for cost in costs)
    if whole:
        divisor = float(np.gcd.reduce(np.concatenate(costs).astype(np.int64)))
        if divisor and limit / divisor < _MOST * bins + 1:
            return divisor, int(limit * (1 + ROUNDING) / divisor)
    # where little has to go, what goes decides
    gone = sum(float(cost.max()) for cost in costs) - limit
    count = bins if limit <= gone else int(bins * min(limit / max(gone, limit / _MOST), _MOST))
    return (limit / count, count) if limit > 0 else (1.0, 0)
