"""Which starting points pruning can reach, and how the trials of a search divide up. It needs no torch.

A starting point out of reach is skipped with a note if it is one of the defaults. It is an error if the user wrote it,
because the search would then ignore what the user asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcore.budgets.knapsack import smallest_share
from medcore.budgets.limits import Limits, smallest_fraction
from medcore.budgets.prices import Prices, linear_prices
from medcore.errors import ConfigError
from medcore.models.spec import ModelSpec
from results.stats.columns import DENSE
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
    least = {"knapsack": smallest_knapsack(start, prices)}
    least |= dict.fromkeys(("uniform", "rule"), smallest_fraction(arch, search.metric))
    kept: dict[str, tuple[float, ...]] = {}
    notes: list[str] = []
    for kind, fractions in zip(_KINDS, (knapsack, starts.uniform, rule), strict=True):
        cost = prices if kind == "knapsack" else counted
        low = [fraction for fraction in fractions if fraction < least[kind]]
        if low:
            share = f"{_listed(low)} of the {cost.name}"
            reason = f"because {least[kind]:.4f} of {arch.name} is left when every group is gone"
            if getattr(starts, kind) != getattr(WarmStarts(), kind):
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
        kept[kind] = tuple(fraction for fraction in fractions if fraction not in (*low, *high))
    return Starts(starts.model_copy(update=kept), tuple(notes))


def smallest_knapsack(start: ModelSpec, prices: Prices) -> float:
    """Return the share of a cost that is left when every group is gone that a knapsack can remove.

    `start` has the widths before the cut.
    """
    arch = start.arch
    # a site without a linear output has an infinite curve, and so it stays whole
    curves = tuple(np.append(np.full(site.width, np.inf if site.output is None else 0.0), 0.0) for site in arch.sites)
    return smallest_share(arch, curves, prices, Limits(current=start))


def least_share(search: SearchConfig, start: ModelSpec, prices: Prices | None = None) -> float:
    """Return the smallest share of the cost that a sampled budget can meet, where no block is protected.

    Args:
        search: The section `search`.
        start: Widths of the model to prune.
        prices: The study's cost if it is measured time.
    """
    shapes, arch, current = search.space.shape.values, start.arch, None if start.is_dense else start
    least = [smallest_knapsack(start, prices or linear_prices(arch, search.metric))] if CURVES in shapes else []
    least += [smallest_fraction(arch, search.metric, current=current)] if SHARES in shapes else []
    return min(least)


def division(search: SearchConfig, names: Sequence[str]) -> str:
    """Say how the trials divide up into starting points, sampled ones and repeats.

    Args:
        search: The section `search`.
        names: Names of the starting points.

    Returns:
        Such as `7 starting points (dense, knapsack 0.1, …), then 41 sampled`.
    """
    starts, sampled, repeats = counts(search, len(names))
    points = f"{starts} starting point{'s' * (starts != 1)}"
    parts = [f"{points} ({', '.join(names[:starts])})" if starts else "no starting points"]
    parts += [f"then {sampled} sampled"] if sampled else []
    parts += [f"then {repeats} that repeat{'s' * (repeats == 1)} members of the front"] if repeats else []
    spare = len(names) - starts
    left_out = f"; {spare} starting point{'s find' if spare > 1 else ' finds'} no trial" if spare else ""
    return f"{search.trials} trials: {', '.join(parts)}{left_out}"


def counts(search: SearchConfig, starts: int) -> tuple[int, int, int]:
    """Return the numbers of starting points, sampled trials and repeats.

    Args:
        search: The section `search`.
        starts: How many starting points there are.
    """
    repeats = search.repeats
    first = min(starts, search.trials - repeats)
    return first, search.trials - repeats - first, repeats


def _listed(fractions: Sequence[float]) -> str:
    return ", ".join(f"{fraction:g}" for fraction in sorted(set(fractions)))
