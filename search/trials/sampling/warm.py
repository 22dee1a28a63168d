"""Trials that run before the sampler's own: budgets a person would try first.

They give every front its anchors (dense, knapsack, uniform, the paper's rule) and give the sampler something good to
start from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medcore.budgets.knapsack import smallest_share
from medcore.budgets.limits import Limits, smallest_fraction
from medcore.budgets.prices import Prices, linear_prices
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture, ModelSpec
from results.stats.columns import DENSE
from search.base.sections.search import SearchConfig
from search.base.sections.space import CURVES
from search.study.inputs import Shared, TrialSettings
from search.trials.sampling.space import Domain, domain_of, encode_budget, encode_fraction, start_share

logger = logging.getLogger(__name__)


def warm_starts(shared: Shared) -> list[dict[str, Any]]:
    """Return points for the sampler: `origin`, `params` and whether it learns from them (`teaches`).

    The parameters of budgets that are no knapsack include the exact budget and scoring weights. The sampler learns
    from such a budget only if the space is shaped around uniform budgets, because no parameters describe it otherwise.
    """
    settings, arch, domain = shared.settings, shared.arch, domain_of(shared)
    starts, weights = settings.search.warm_starts, settings.scoring.weights(settings.seed)
    describable = settings.search.space.draws_residuals and CURVES not in settings.search.space.shape.values
    fractions = starts.knapsack if CURVES in settings.search.space.shape.values else ()
    exact = [
        {
            "origin": origin,
            "params": encode_budget(spec, fraction, weights, domain),
            "teaches": describable,
        }
        for origin, fraction, spec in _budgets(settings, arch, domain)
    ]
    pure = [
        {"origin": f"knapsack {fraction:g}", "params": encode_fraction(fraction, domain), "teaches": True}
        for fraction in _useful(fractions, domain, domain.prices)
    ]
    return exact[:1] + pure + exact[1:] if starts.dense else pure + exact


def _budgets(settings: TrialSettings, arch: Architecture, domain: Domain) -> list[tuple[str, float, ModelSpec]]:
    """Return origin, share of the cost and widths of the budgets that are no knapsack; the dense model comes first.

    If the cost is measured time, the share is one of `flops_paper`, because uniform and the rule's budgets meet counted
    costs only.
    """
    starts, metric, multiple = settings.search.warm_starts, settings.search.metric, settings.budget.multiple
    budgets: list[tuple[str, float, ModelSpec]] = []
    counted, limits = linear_prices(arch, metric), Limits(multiple=multiple, current=domain.start)
    if starts.dense:
        dense = (DENSE, 1.0, ModelSpec.dense(arch))
        budgets.append(dense if domain.start is None else (DENSE, start_share(domain.start, counted), domain.start))
    for fraction in _useful(starts.uniform, domain, counted):
        spec = uniform_to_target(arch, fraction, metric, limits)
        budgets.append((f"uniform {fraction:g}", fraction, spec))
    # an architecture whose families have no default sparsity has no rule
    rules = starts.rule if any(family.sparsity for family in arch.families) else ()
    for fraction in _useful(rules, domain, counted):
        spec = rule_to_target(arch, fraction, domain.sensitivity, metric=metric, current=domain.start)
        budgets.append((f"rule {fraction:g}", fraction, spec))
    return budgets


def _useful(fractions: Sequence[float], domain: Domain, prices: Prices) -> list[float]:
    """Return the shares that remove something of the model to prune; log which are left out."""
    share = 1.0 if domain.start is None else start_share(domain.start, prices)
    useless = [] if domain.start is None else [fraction for fraction in fractions if fraction >= share]
    if useless:
        logger.warning(
            "search.warm_starts: %s left out, because the model to prune has %.4f of the dense encoder's %s",
            *(", ".join(f"{fraction:g}" for fraction in useless), share, prices.name),
        )
    return [fraction for fraction in fractions if fraction not in useless]


def check_warm_starts(search: SearchConfig, start: ModelSpec, prices: Prices | None = None) -> None:
    """Check that pruning this architecture can reach the warm starts.

    It needs no computation on models, so it runs before any.

    Args:
        search: The section `search`.
        start: Widths of the model to prune.
        prices: The study's cost if it is measured time.

    Raises:
        MedcoreError: A budget is out of reach.
    """
    arch = start.arch
    starts, prices = search.warm_starts, prices or linear_prices(arch, search.metric)
    knapsack = starts.knapsack if CURVES in search.space.shape.values else ()  # no others are tried
    _check_reach(knapsack, smallest_knapsack(start, prices), prices.name, arch)
    _check_reach((*starts.uniform, *starts.rule), smallest_fraction(arch, search.metric), search.metric, arch)


def smallest_knapsack(start: ModelSpec, prices: Prices) -> float:
    """Return the share of a cost that is left when every group is gone that a knapsack can remove.

    `start` has the widths before the cut.
    """
    arch = start.arch
    # a site without a linear output has an infinite curve, and so it stays whole
    curves = tuple(np.append(np.full(site.width, np.inf if site.output is None else 0.0), 0.0) for site in arch.sites)
    return smallest_share(arch, curves, prices, Limits(current=start))


def _check_reach(fractions: Iterable[float], least: float, name: str, arch: Architecture) -> None:
    if low := sorted({fraction for fraction in fractions if fraction < least}):
        names = ", ".join(f"{fraction:g}" for fraction in low)
        raise MedcoreError(
            f"search.warm_starts: {names} of the {name} is out of reach; {least:.4f} of {arch.name} is "
            "left when every group is gone"
        )
