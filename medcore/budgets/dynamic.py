"""Dynamic programming over the cost of choices, on plain arrays (method §5, knapsack)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

#: Key of the sites that no group holds.
TOP = -1


def least_loss(
    losses: Sequence[Floats],
    weights: Sequence[Counts],
    widths: Sequence[Counts],
    capacity: int,
    held: Mapping[int, Sequence[int]],
) -> Counts | None:
    """Choose one entry of every site, so that losses add up to the least and weights to at most `capacity`.

    The result is exact. Where losses are equal, later sites take the lighter entry.

    Args:
        losses: S arrays (J,), finite.
        weights: S arrays (J,), whole and not negative.
        widths: S arrays (J,); only the difference between 0 and more matters, and only for sites that hold others.
        capacity: largest sum of weights.
        held: sites that each site holds, and at `TOP` those that no site holds. They count only if the site that
            holds them keeps something; one entry at most of such a site does.

    Returns:
        (S,) indices of entries, -1 for sites whose holder keeps nothing; None if even the lightest are too heavy.
    """
    tables = _Tables(losses, weights, widths, held)
    if capacity < 0 or not np.isfinite(tables.extend(np.zeros(capacity + 1), held[TOP])[-1]):
        return None
    return tables.picks(capacity)


@dataclass
class _Tables:
    """Least losses by capacity, and the entries that lead to them.

    Attributes:
        losses, weights, widths, held: as for `least_loss`.
        chosen: site -> (capacity + 1,) entry that the site has in the best solution of each capacity.
    """

    losses: Sequence[Floats]
    weights: Sequence[Counts]
    widths: Sequence[Counts]
    held: Mapping[int, Sequence[int]]
    chosen: dict[int, Counts] = field(default_factory=dict)

    def extend(self, best: Floats, sites: Sequence[int]) -> Floats:
        """Add sites to a table of least losses, (capacity + 1,) -> (capacity + 1,)."""
        for site in sites:
            best = self._holder(best, site) if site in self.held else self._plain(best, site)
        return best

    def picks(self, capacity: int) -> Counts:
        """Return the entries that lead to the least loss within a capacity, (S,)."""
        picks = np.full(len(self.losses), -1, dtype=np.int64)
        self._walk(picks, capacity, self.held[TOP])
        return picks

    def _plain(self, best: Floats, site: int) -> Floats:
        losses, weights = self.losses[site], self.weights[site]
        least, chosen = np.full_like(best, np.inf), np.zeros(len(best), dtype=np.int64)
        # one row at a time stays in the processor's cache
        for entry in _useful(losses, weights, len(best) - 1):
            _take_better(least, chosen, entry, _moved_up(best, weights[entry]) + losses[entry])
        self.chosen[site] = chosen
        return least

    def _holder(self, best: Floats, site: int) -> Floats:
        """Add a site that holds others: its entries that keep something come with tables of what it holds."""
        least, chosen = np.full_like(best, np.inf), np.zeros(len(best), dtype=np.int64)
        for entry, (loss, weight) in enumerate(zip(self.losses[site], self.weights[site], strict=True)):
            table = np.full_like(best, np.inf)
            table[weight:] = _moved_up(best, weight) + loss
            if self.widths[site][entry]:
                table = self.extend(table, self.held[site])
            _take_better(least, chosen, entry, table)
        self.chosen[site] = chosen
        return least

    def _walk(self, picks: Counts, left: int, sites: Sequence[int]) -> int:
        """Fill in picks from the last site to the first; return the capacity that is left for sites before them."""
        for site in reversed(sites):
            entry = int(self.chosen[site][left])
            picks[site] = entry
            if site in self.held and self.widths[site][entry]:
                left = self._walk(picks, left, self.held[site])
            left -= int(self.weights[site][entry])
        return left


def _useful(losses: Floats, weights: Counts, capacity: int) -> Counts:
    """Return the entries that fit and that no lighter or equal entry beats, by rising weight."""
    order = np.lexsort((losses, weights))
    order = order[weights[order] <= capacity]
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order]]))[:-1]
    return order[losses[order] < before]


def _moved_up(best: Floats, weight: int) -> Floats:
    """Return the entries of a table that are still within the capacity if a weight is added."""
    return best[: max(len(best) - weight, 0)]


def _take_better(least: Floats, chosen: Counts, entry: int, totals: Floats) -> None:
    """Replace the least losses of the largest capacities, and the entries chosen there, where `totals` are less."""
    place = len(least) - len(totals)
    better = totals < least[place:]
    np.copyto(least[place:], totals, where=better)
    np.copyto(chosen[place:], entry, where=better)
