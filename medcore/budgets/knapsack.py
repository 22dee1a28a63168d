"""Budgets of least predicted loss under costs (method §5, knapsack): an architecture's sites as a knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medcore.budgets.choices import ROUNDING, Choices, Problem, lower_bound
from medcore.budgets.dynamic import TOP, Counts
from medcore.budgets.lagrangian import Solution, solve
from medcore.budgets.limits import Floats, Limits, Metric
from medcore.budgets.prices import Prices, linear_prices
from medcore.errors import ConfigError
from medcore.models.sites import Array, PerSite, Site
from medcore.models.spec import Architecture, ModelSpec

#: Sites of more groups than this offer every `_STEP`-th width, others every width.
_FEW = 96
_STEP = 4


@dataclass(frozen=True)
class Target:
    """A cost to stay within.

    Attributes:
        prices: the cost.
        fraction: largest share of the dense encoder's cost, in (0, 1].
    """

    prices: Prices
    fraction: float

    @property
    def limit(self) -> float:
        """Return the largest cost of the prunable parts."""
        return self.fraction * self.prices.dense - self.prices.fixed


@dataclass(frozen=True)
class Allocation:
    """A budget within several costs.

    Attributes:
        spec: the widths.
        loss: its predicted loss, in the units of the curves.
        bound: a loss that no budget of the offered widths can beat.
    """

    spec: ModelSpec
    loss: float
    bound: float


def knapsack_budget(
    arch: Architecture,
    curves: PerSite,
    fraction: float,
    metric: Metric = "flops_paper",
    limits: Limits | None = None,
    *,
    multipliers: Floats | None = None,
    exponent: float = 1.0,
    prices: Prices | None = None,
) -> ModelSpec:
    """Find the budget of least predicted loss within a share of the cost (5.7).

    Args:
        arch: the dense architecture.
        curves: S arrays (G + 1,): predicted loss of keeping k groups, finite or infinite. A site that has no finite
            entry below its dense width stays whole.
        fraction: largest share of the dense encoder's cost, in (0, 1].
        metric: the cost; ignored if `prices` are given.
        limits: what to leave alone. Rounded families keep multiples of `limits.multiple`, or what the site has now.
        multipliers: (S,) > 0, weights of the sites' curves; None for 1.
        exponent: power > 0 of the predicted loss (5.12); 1 for the loss itself.
        prices: another cost, such as measured time.

    Raises:
        MedcoreError: the curves or multipliers do not fit the architecture, or the fraction is out of reach; the
            message names the smallest attainable one.
    """
    target = Target(prices or linear_prices(arch, metric), fraction)
    scaled = scaled_curves(arch, curves, multipliers, exponent)
    return _spec(arch, _solved(_problem(arch, scaled, [target], limits or Limits()), [target]))


def budget_within(
    arch: Architecture, curves: PerSite, targets: Sequence[Target], limits: Limits | None = None
) -> Allocation:
    """Find a budget of small predicted loss within several costs at once (5.9).

    Args:
        arch: the dense architecture.
        curves: as for `knapsack_budget`.
        targets: the costs, at least one. The first is met most closely.
        limits: what to leave alone.

    Raises:
        MedcoreError: the curves do not fit the architecture, or the search finds no budget within all costs.
    """
    problem = _problem(arch, curves, targets, limits or Limits())
    solution = _solved(problem, targets)
    bound = lower_bound(problem, solution.multipliers)
    return Allocation(_spec(arch, solution), solution.loss, min(bound, solution.loss))


def smallest_share(arch: Architecture, curves: PerSite, prices: Prices, limits: Limits | None = None) -> float:
    """Return the smallest fraction of a cost that `knapsack_budget` can meet.

    Raises:
        MedcoreError: the curves do not fit the architecture.
    """
    return _share(prices, _problem(arch, curves, [Target(prices, 1.0)], limits or Limits()).least_cost())


def scaled_curves(
    arch: Architecture, curves: PerSite, multipliers: Floats | None = None, exponent: float = 1.0
) -> PerSite:
    """Weight curves and take a power of them (5.12).

    Args:
        arch: the dense architecture.
        curves: S arrays (G + 1,), >= 0 or infinite.
        multipliers: (S,) > 0, weights of the sites; None for 1.
        exponent: power > 0. Before it, all curves are divided by their largest finite value, so that it has no unit.

    Returns:
        S arrays (G + 1,).

    Raises:
        MedcoreError: an array has the wrong shape or holds what it must not.
    """
    _check_curves(arch, curves)
    weights = np.ones(len(arch.sites)) if multipliers is None else np.asarray(multipliers, dtype=np.float64)
    if weights.shape != (len(arch.sites),) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise ConfigError(f"budget: multipliers must be {len(arch.sites)} finite numbers above 0, got {weights}")
    if not 0 < exponent < np.inf:
        raise ConfigError(f"budget: the exponent of the curves must be above 0, got {exponent}")
    scale = max(float(np.max(curve, initial=0.0, where=np.isfinite(curve))) for curve in curves) or 1.0
    return tuple(weight * (curve / scale) ** exponent for weight, curve in zip(weights, curves, strict=True))


def offered_widths(site: Site, most: int, least: int, multiple: int = 1) -> npt.NDArray[np.int64]:
    """Return the widths that a budget may give a site, rising.

    Args:
        site: the site.
        most: its present width, which is always offered.
        least: fewest groups to keep.
        multiple: for rounded families, the widths between 0 and `most` are multiples of this, and so is the least.

    Returns:
        (J,) widths. Without a multiple, sites of more than 96 groups offer the least and multiples of 4.
    """
    rounded = site.family.rounded and multiple > 1
    step = multiple if rounded else _STEP if site.width > _FEW else 1
    least = min(-(-least // step) * step if rounded else least, most)
    grid = np.arange(0, most, step, dtype=np.int64)
    return np.unique(np.concatenate([[least], grid[grid >= least], [most]])).astype(np.int64)


def _problem(arch: Architecture, curves: PerSite, targets: Sequence[Target], limits: Limits) -> Problem:
    """Return the knapsack of an architecture.

    Raises:
        MedcoreError: curves, targets or limits do not fit the architecture.
    """
    _check_curves(arch, curves)
    if limits.multiple < 1:
        raise ConfigError(f"budget: multiple must be at least 1, got {limits.multiple}")
    for target in targets:
        if not 0 < target.fraction <= 1:
            raise ConfigError(f"budget: fraction must lie in (0, 1], got {target.fraction}")
    places = {site.name: index for index, site in enumerate(arch.sites)}
    owners = tuple(TOP if site.within is None else places[site.within] for site in arch.sites)
    kept = _kept_whole(arch, limits, owners)
    sites = []
    for index, (site, most) in enumerate(zip(arch.sites, limits.widths(arch), strict=True)):
        least = most if kept[index] else limits.least(site)
        widths = offered_widths(site, most, least, limits.multiple)
        costs = np.stack([target.prices.tables[index][widths] for target in targets])
        sites.append(_choices(widths, curves[index][widths], costs))
    return Problem(tuple(sites), np.array([target.limit for target in targets]), owners)


def _choices(widths: Counts, losses: Array, costs: Array) -> Choices:
    """Return the choices of finite loss; if there is none, keeping what the site has is the only one."""
    finite = np.isfinite(losses)
    if not finite.any():
        return Choices(widths[-1:], np.zeros(1), costs[:, -1:])
    return Choices(widths[finite], losses[finite], costs[:, finite])


def _kept_whole(arch: Architecture, limits: Limits, owners: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return the sites that give up nothing, (S,): those of protected blocks, and the owners of such sites."""
    protected = limits.blocks(arch)
    kept = np.array([site.block in protected for site in arch.sites], dtype=np.bool_)
    # owners come before what they hold
    for index in reversed(range(len(owners))):
        if kept[index] and owners[index] != TOP:
            kept[owners[index]] = True
    return kept


def _solved(problem: Problem, targets: Sequence[Target]) -> Solution:
    """Return the solution of a knapsack.

    Raises:
        MedcoreError: none was found; the message names the smallest attainable fraction.
    """
    least = np.array([problem.least_cost(number) for number in range(len(targets))])
    for target, cost in zip(targets, least, strict=True):
        if cost > target.limit + ROUNDING * target.prices.dense:
            smallest = np.ceil(_share(target.prices, cost) * 1e4) / 1e4
            raise ConfigError(
                f"budget: a {target.prices.name} fraction of {target.fraction:g} is out of reach; the smallest "
                f"attainable is {smallest:.4f} with these protected blocks, minima and sites without a curve"
            )
    # the smallest attainable fraction times the dense cost can fall short of the smallest cost by a rounding error
    solution = solve(replace(problem, limits=np.maximum(problem.limits, least)))
    if solution is None:
        wanted = " and ".join(f"{target.fraction:g} of {target.prices.name}" for target in targets)
        raise ConfigError(f"budget: no budget found within {wanted} at once; raise one of the fractions")
    return solution


def _share(prices: Prices, cost: float) -> float:
    """Return the share of the dense encoder's cost if the prunable parts cost this much."""
    return (cost + prices.fixed) / prices.dense


def _spec(arch: Architecture, solution: Solution) -> ModelSpec:
    return ModelSpec(arch, tuple(map(int, solution.widths)))


def _check_curves(arch: Architecture, curves: PerSite) -> None:
    """Check the number, shape and values of curves.

    Raises:
        MedcoreError: they do not fit the architecture, or hold a negative number or none.
    """
    if len(curves) != len(arch.sites):
        raise ConfigError(f"budget: {len(curves)} curves for {len(arch.sites)} sites; compute the profile again")
    for site, curve in zip(arch.sites, curves, strict=True):
        if curve.shape != (site.width + 1,) or not (curve >= 0).all():
            raise ConfigError(
                f"budget: the curve of {site.name} must hold {site.width + 1} losses from 0 on, got {curve.shape}; "
                "compute the profile again"
            )
