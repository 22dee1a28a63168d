"""Budgets that meet a cost target: preferences of sites on one common scale (method §5, to-target).

Group number k of a site of W groups and preference p is kept from the scale s = (k - ½)/(p·W) on. So a larger scale
keeps a superset, all sites grow together, and the cost is a step function of s that bisection inverts. Groups within
another group are kept from that group's scale on at the earliest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medcore.budgets.limits import Floats, Limits, Metric, costless, group_costs
from medcore.errors import ConfigError
from medcore.models.sites import Family
from medcore.models.spec import Architecture, ModelSpec

_LOG = logging.getLogger(__name__)

#: Preference of families with `lean` 1 in uniform budgets that would empty them; such groups cost and matter more.
UNIFORM_LEAN = 4.0

#: A preference of 0 counts as this share of the largest: such groups come last, but any fraction is in reach.
_LEAST_PREFERENCE = 1e-6


def to_target(
    arch: Architecture,
    preferences: Floats,
    fraction: float,
    metric: Metric = "flops_paper",
    limits: Limits | None = None,
) -> ModelSpec:
    """Find the budget of a given cost that is shaped by preferences of sites.

    The scale at which all families together come closest to the target settles the first family. The others then
    move along the same order to close what is left of a group's cost, one family after the other. Families that hold
    others come first, then the rest by falling cost of a group. Sites that cost nothing in this figure stay whole.

    Guarantees: the cost misses the target by at most half a group of the last family, or of the one before it if the
    last is at its limits. Counts of the first family are monotone in `fraction`. The cost is monotone up to one group
    of the last. Equal preferences give equal blocks, to one group.

    Args:
        arch: the dense architecture.
        preferences: (S,) >= 0, one a site, relative to each other only: twice the preference keeps twice the share.
            0 keeps groups only when nothing else is left to keep.
        fraction: share of the dense encoder's `metric`, in (0, 1].
        metric: which cost to meet.
        limits: what to leave alone. A "group" of a rounded family above is then `limits.multiple` of them, which
            must divide the widths.

    Raises:
        MedcoreError: the fraction is below what the unprunable parts, minima and protected blocks cost; the
            message names the smallest attainable fraction.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"budget: fraction must lie in (0, 1], got {fraction}")
    limits = limits or Limits()
    costs, blocks = group_costs(arch, metric), limits.blocks(arch)
    steps = np.array([limits.multiple if site.family.rounded else 1 for site in arch.sites])
    _check_multiple(arch, limits)
    most = np.array(limits.widths(arch)) // steps
    least = np.minimum(-(-np.array([limits.least(site) for site in arch.sites]) // steps), most)
    kept = np.array([site.block in blocks for site in arch.sites]) | costless(arch, metric)
    least[kept] = most[kept]
    sites = _Scale(
        widths=np.array(arch.dense_widths) // steps,
        least=least,
        most=most,
        preferences=_preferences(arch, preferences),
        costs=costs.groups * steps,
        owners=_owners(arch),
    )
    target = fraction * costs.dense - costs.fixed
    floor = float(sites.counts(0.0) @ sites.costs)
    if target < floor - 1e-9 * costs.dense:
        smallest = (floor + costs.fixed) / costs.dense
        raise ConfigError(
            f"budget: a {metric} fraction of {fraction:g} is out of reach; the smallest attainable is "
            f"{np.ceil(smallest * 1e4) / 1e4:.4f} with {len(blocks)} protected blocks and these minima"
        )
    counts = _settle(arch, sites, target)
    return ModelSpec(arch, tuple(int(count) for count in counts * steps))


def uniform_to_target(
    arch: Architecture, fraction: float, metric: Metric = "flops_paper", limits: Limits | None = None
) -> ModelSpec:
    """Find the uniform budget of a given cost.

    Every site that may give keeps the same share, to one group. Elective families stay whole. If that leaves no group
    at more than half of the sites of a family with `lean` 1 that have groups now, such families keep four times the
    share of the others instead, and a warning says so.

    Args:
        arch: the dense architecture.
        fraction: share of the dense encoder's `metric`, in (0, 1].
        metric: which cost to meet.
        limits: what to leave alone.

    Raises:
        MedcoreError: the fraction is out of reach, as for `to_target`.
    """
    limits = limits or Limits()
    whole = {family.name: 1.0 for family in arch.families if family.elective}
    kept = Limits(
        limits.protected, limits.least_count, {**limits.least_share, **whole}, limits.multiple, limits.current
    )
    plain = to_target(arch, np.ones(len(arch.sites)), fraction, metric, kept)
    emptied = _emptied(plain, limits.widths(arch))
    if not emptied:
        return plain
    _LOG.warning(
        "uniform budget of %g of %s: equal shares would leave no %s in most blocks, so the share of %s is %g times "
        "that of the others",
        fraction,
        metric,
        " and no ".join(family.singular for family in emptied),
        " and ".join(family.name for family in arch.families if family.lean > 0),
        UNIFORM_LEAN,
    )
    leaning = [UNIFORM_LEAN if site.family.lean > 0 else 1.0 for site in arch.sites]
    return to_target(arch, leaning, fraction, metric, kept)


def _emptied(spec: ModelSpec, before: Sequence[int]) -> list[Family]:
    """Return the families with `lean` 1 that keep no group at more than half of the sites that had some."""
    kept: dict[Family, list[bool]] = {}
    for site, width, earlier in zip(spec.arch.sites, spec.widths, before, strict=True):
        if site.family.lean > 0 and earlier:
            kept.setdefault(site.family, []).append(width > 0)
    return [family for family, some in kept.items() if 2 * sum(some) < len(some)]


def _settle(arch: Architecture, sites: _Scale, target: float) -> npt.NDArray[np.int64]:
    """Return counts of all sites, (S,), one family after the other."""
    counts = np.zeros(len(arch.sites), dtype=np.int64)
    open_sites = np.arange(len(arch.sites))
    for family in _settling_order(arch, sites):
        own = np.array([arch.sites[index].family == family for index in open_sites], dtype=bool)
        settled = open_sites[own]
        counts[settled] = sites.part(open_sites).closest(target)[own]
        target -= float(counts[settled] @ sites.costs[settled])
        open_sites = open_sites[~own]
        gone = {arch.sites[index].name for index in settled if not counts[index]}
        sites = sites.without([index for index in open_sites if arch.sites[index].within in gone])
    return counts


def _settling_order(arch: Architecture, sites: _Scale) -> list[Family]:
    """Return the families that hold others, in their order, then the rest by falling cost of a group.

    A holder may cost less than a holder within it. It must still come first, because what it holds goes with it.
    """
    holders = {arch.sites[owner].family for owner in sites.owners if owner >= 0}
    costs = dict.fromkeys(arch.families, 0.0)
    for site, cost in zip(arch.sites, sites.costs, strict=True):
        costs[site.family] = max(costs[site.family], float(cost))
    rest = [family for family in arch.families if family not in holders]
    rest.sort(key=lambda family: costs[family], reverse=True)
    return [*(family for family in arch.families if family in holders), *rest]


@dataclass(frozen=True)
class _Scale:
    """Sites of equal groups on one scale.

    Attributes:
        widths: groups of the dense site, (F,).
        least: fewest groups to keep, (F,).
        most: most groups to keep, (F,).
        preferences: positive numbers, (F,).
        costs: cost of one group, (F,).
        owners: index of the site whose group holds a site, or -1, (F,). Owners come before what they hold.
    """

    widths: npt.NDArray[np.int64]
    least: npt.NDArray[np.int64]
    most: npt.NDArray[np.int64]
    preferences: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]
    owners: npt.NDArray[np.int64]

    def part(self, which: npt.NDArray[np.int64]) -> _Scale:
        """Return some of the sites.

        A site whose owner is not among them has none.
        """
        places = {old: new for new, old in enumerate(which.tolist())}
        return _Scale(
            widths=self.widths[which],
            least=self.least[which],
            most=self.most[which],
            preferences=self.preferences[which],
            costs=self.costs[which],
            owners=np.array([places.get(owner, -1) for owner in self.owners[which].tolist()], dtype=np.int64),
        )

    def without(self, which: list[int]) -> _Scale:
        """Return the same sites, of which some can keep nothing."""
        least, most = self.least.copy(), self.most.copy()
        least[which] = most[which] = 0
        return replace(self, least=least, most=most)

    def counts(self, scale: float) -> npt.NDArray[np.int64]:
        """Return the number of groups kept at a scale (5.5), (F,)."""
        wanted = np.floor(scale * self.preferences * self.widths + 0.5)
        counts = np.clip(wanted, self.least, self.most).astype(np.int64)
        for site in np.flatnonzero(self.owners >= 0):
            if not counts[self.owners[site]]:
                counts[site] = 0
        return counts

    def closest(self, target: float) -> npt.NDArray[np.int64]:
        """Return the counts along the scale whose cost is closest to `target`, (F,).

        If two are equally close, return the cheaper one.
        """
        low, high = 0.0, float(2 / self.preferences.min())
        below, above = self.counts(low), self.most
        while (above - below).sum() > 1:
            middle = (low + high) / 2
            if not low < middle < high:
                break  # neighbouring floats: the groups in between have equal thresholds
            counts = self.counts(middle)
            if counts @ self.costs <= target:
                low, below = middle, counts
            else:
                high, above = middle, counts
        return self._nearest_between(below, above, target)

    def _nearest_between(
        self, below: npt.NDArray[np.int64], above: npt.NDArray[np.int64], target: float
    ) -> npt.NDArray[np.int64]:
        """Add single groups to `below` by rising threshold.

        The sum of costs gets as close to `target` as it can. A group that holds sites comes with the least of them.

        Args:
            below: counts of too low a cost, (F,).
            above: counts of too high a cost, (F,), of the same sites.
            target: cost to meet.

        Returns:
            Counts, (F,).
        """
        site = np.repeat(np.arange(len(below)), above - below)
        number = 1 + np.concatenate([np.arange(*ends) for ends in zip(below, above, strict=True)])
        tied = number <= self.least[site]
        threshold = np.where(tied, 0.0, (number - 0.5) / (self.preferences[site] * self.widths[site]))
        threshold = np.maximum(threshold, self._openings()[site])
        order = np.lexsort((tied, np.where(tied, self.owners[site], site), threshold))
        reached = float(below @ self.costs) + np.concatenate([[0.0], np.cumsum(self.costs[site[order]])])
        # a group and what is tied to it come together, so no budget ends between them
        reached[:-1][tied[order]] = np.inf
        added = site[order[: int(np.argmin(np.abs(reached - target)))]]
        return below + np.bincount(added, minlength=len(below))

    def _openings(self) -> npt.NDArray[np.float64]:
        """Return the scale from which the group that holds a site is kept, (F,).

        The scale is 0 for a site that no group holds.
        """
        openings = np.zeros(len(self.widths))
        for site in np.flatnonzero(self.owners >= 0):
            owner = self.owners[site]
            own = 0.0 if self.least[owner] else 0.5 / (self.preferences[owner] * self.widths[owner])
            openings[site] = max(openings[owner], own)
        return openings


def _owners(arch: Architecture) -> npt.NDArray[np.int64]:
    """Return the index of the site whose group holds a site, or -1, (S,)."""
    places = {site.name: index for index, site in enumerate(arch.sites)}
    return np.array([-1 if site.within is None else places[site.within] for site in arch.sites], dtype=np.int64)


def _check_multiple(arch: Architecture, limits: Limits) -> None:
    rounded = [index for index, site in enumerate(arch.sites) if site.family.rounded]
    widths = limits.widths(arch)
    if limits.multiple < 1 or any(
        width % limits.multiple for index in rounded for width in (arch.dense_widths[index], widths[index])
    ):
        counts = sorted({widths[index] for index in rounded})
        names = " and ".join(dict.fromkeys(arch.sites[index].family.singular for index in rounded))
        raise ConfigError(f"budget: {names} counts {counts} are no multiples of {limits.multiple}")


def _preferences(arch: Architecture, given: Floats) -> npt.NDArray[np.float64]:
    """Return positive preferences, (S,), the largest 1."""
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (len(arch.sites),):
        raise ConfigError(f"budget: preferences have shape {values.shape}, expected ({len(arch.sites)},)")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError(f"budget: preferences must be finite and not negative, got {values.tolist()}")
    largest = float(values.max())
    if largest == 0:
        raise ConfigError("budget: all preferences are 0; give at least one site a positive preference")
    return np.maximum(values / largest, _LEAST_PREFERENCE)


def per_site(arch: Architecture, per_block: Floats) -> npt.NDArray[np.float64]:
    """Spread one value a block over the sites, (L,) -> (S,)."""
    values = np.asarray(per_block, dtype=np.float64)
    return values[[site.block for site in arch.sites]]
