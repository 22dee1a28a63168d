"""Which starting points pruning can reach, and how the trials of a search divide up. It needs no torch.

A default starting point that is out of reach, or that the space leaves out, is skipped with a note. One that the user
wrote is tried also where the space leaves it out. Out of reach it is an error, because the search would ignore what the
user asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcore.budgets.knapsack import smallest_share
from medcore.budgets.limits import Limits, last_blocks, smallest_fraction
from medcore.budgets.prices import Prices, linear_prices
from medcore.errors import ConfigError
from medcore.models.spec import ModelSpec
from results.stats.columns import DENSE
from search.base.sections.dimensions import Fixed, Range
from search.base.sections.search import SearchConfig, WarmStarts
from search.base.sections.space import CURVES, SHARES

_KINDS = ("knapsack", "uniform", "rule")


@dataclass(frozen=True)
class Starts:
    """Starting points of a search.

    Attributes:
        kept: Those that the search tries.
        notes: Which were skipped, and why, one line each.
    """

    kept: WarmStarts
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the origin of each trial that starts the search, in its order."""
        shares = [f"{kind} {fraction:g}" for kind in _KINDS for fraction in getattr(self.kept, kind)]
        return [DENSE, *shares] if self.kept.dense else shares


def reachable_starts(search: SearchConfig, start: ModelSpec, prices: Prices | None = None) -> Starts:
    """Return the starting points that pruning a model can reach and that remove something of it.

    It needs no computation on models, so it runs before any.

    Args:
        search: The section `search`.
        start: Widths of the model to prune.
        prices: The study's cost if it is measured time.

    Raises:
        ConfigError: A budget that the user wrote is out of reach.
    """
    arch, starts = start.arch, search.warm_starts
    counted = linear_prices(arch, search.metric)
    prices = prices or counted
    knapsack = starts.knapsack if CURVES in search.space.shape.values else ()  # no others are tried
    # an architecture whose families have no default sparsity has no rule
    rule = starts.rule if any(family.sparsity for family in arch.families) else ()
    protected = last_blocks(arch, int(search.space.protected_last.nearest(0)))
    least = {"knapsack": smallest_knapsack(start, prices, protected)}
    least |= dict.fromkeys(("uniform", "rule"), smallest_fraction(arch, search.metric))
    kept: dict[str, tuple[float, ...]] = {}
    notes: list[str] = []
    for kind, fractions in zip(_KINDS, (knapsack, starts.uniform, rule), strict=True):
        cost = prices if kind == "knapsack" else counted
        is_default = getattr(starts, kind) == getattr(WarmStarts(), kind)
        low = [fraction for fraction in fractions if fraction < least[kind]]
        if low:
            share = f"{_listed(low)} of the {cost.name}"
            reason = f"because {least[kind]:.4f} of {arch.name} is left when every group is gone"
            if not is_default:
                raise ConfigError(
                    f"search.warm_starts.{kind}: {share} is out of reach, {reason}; give larger shares or leave the "
                    "key out"
                )
            notes.append(f"search.warm_starts: skipped {kind} {share}, {reason}")
        high = [] if start.is_dense else [each for each in fractions if each >= cost.total(start) / cost.dense]
        if high:
            notes.append(
                f"search.warm_starts: skipped {kind} {_listed(high)}, because the model to prune has "
                f"{cost.total(start) / cost.dense:.4f} of the dense encoder's {cost.name}"
            )
        outside = [each for each in fractions if search.space.fraction.nearest(each) != each] if is_default else []
        if left_out := [each for each in outside if each not in (*low, *high)]:
            notes.append(
                f"search.warm_starts: skipped {kind} {_listed(left_out)}, which search.space.fraction leaves out"
            )
        kept[kind] = tuple(fraction for fraction in fractions if fraction not in (*low, *high, *outside))
    return Starts(starts.model_copy(update=kept), tuple(notes))


def smallest_knapsack(start: ModelSpec, prices: Prices, protected: tuple[int, ...] = ()) -> float:
    """Return the share of a cost that is left when every group is gone that a knapsack can remove.

    Args:
        start: Widths before the cut.
        prices: The cost.
        protected: Blocks that give up nothing.
    """
    arch = start.arch
    # a site without a linear output has an infinite curve, and so it stays whole
    curves = tuple(np.append(np.full(site.width, np.inf if site.output is None else 0.0), 0.0) for site in arch.sites)
    return smallest_share(arch, curves, prices, Limits(protected, current=start))


def share_limits(search: SearchConfig, start: ModelSpec, prices: Prices | None = None) -> tuple[float, float]:
    """Return the smallest share of the cost that a sampled budget can meet, and the share of the model to prune.

    Args:
        search: The section `search`.
        start: Widths of the model to prune.
        prices: The study's cost if it is measured time.
    """
    arch, shapes, cost = start.arch, search.space.shape.values, prices or linear_prices(start.arch, search.metric)
    protected = last_blocks(arch, min(int(count) for count in search.space.protected_last.values))
    least = [smallest_knapsack(start, cost, protected)] if CURVES in shapes else []
    least += [smallest_fraction(arch, search.metric, protected, start)] if SHARES in shapes else []
    return min(least), cost.total(start) / cost.dense


def point_count(search: SearchConfig, start: ModelSpec, prices: Prices | None = None) -> int | None:
    """Return how many different trials the space has; None if there is no end of them.

    Args:
        search: The section `search`.
        start: Widths of the model to prune.
        prices: The study's cost if it is measured time.
    """
    if search.space.draws_residuals or not isinstance(
        search.space.mixture, Fixed
    ):  # mixtures are one for each data set
        return None
    least, most = share_limits(search, start, prices)
    points = 1
    for name, found in search.space:
        by_family = isinstance(found, Mapping)
        for dimension in [found[family.name] for family in start.arch.families] if by_family else [found]:
            if isinstance(dimension, Range):
                if name != "fraction" or max(dimension.low, least) < min(dimension.high, most):
                    return None
            elif dimension is not None:
                points *= len(set(dimension.values))
    return points


def division(search: SearchConfig, names: Sequence[str], *, averages: bool = False) -> str:
    """Say how the trials divide up into starting points, sampled ones and finalists.

    Args:
        search: The section `search`.
        names: Names of the starting points.
        averages: Whether finalists average too.

    Returns:
        Such as `7 starting points (dense, knapsack 0.1, …), then 41 sampled`.
    """
    starts, sampled, finalists = counts(search, len(names))
    points = f"{starts} starting point{'s' * (starts != 1)}"
    parts = [f"{points} ({', '.join(names[:starts])})" if starts else "no starting points"]
    parts += [f"then {sampled} sampled"] if sampled else []
    words = " or average the weights of such runs" if averages else ""
    parts += [f"then {finalists} that repeat{'s' * (finalists == 1)} members of the front{words}"] if finalists else []
    spare = len(names) - starts
    left_out = f"; {spare} starting point{'s find' if spare > 1 else ' finds'} no trial" if spare else ""
    return f"{search.trials} trials: {', '.join(parts)}{left_out}"


def counts(search: SearchConfig, starts: int) -> tuple[int, int, int]:
    """Return the numbers of starting points, sampled trials and finalists.

    Args:
        search: The section `search`.
        starts: How many starting points there are.
    """
    finalists = search.last_trials
    first = min(starts, search.trials - finalists)
    return first, search.trials - finalists - first, finalists


def _listed(fractions: Sequence[float]) -> str:
    return ", ".join(f"{fraction:g}" for fraction in sorted(set(fractions)))
