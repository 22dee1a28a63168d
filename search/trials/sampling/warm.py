"""Trials that run before the sampler's own: budgets a person would try first.

They give every front its anchors (dense, knapsack, uniform, the paper's rule) and give the sampler something good to
start from.
"""

from __future__ import annotations

from typing import Any

from medcore.budgets.limits import Limits
from medcore.budgets.prices import linear_prices
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import uniform_to_target
from medcore.models.spec import Architecture, ModelSpec
from results.stats.columns import DENSE
from search.base.sections.search import WarmStarts
from search.base.sections.space import CURVES
from search.study.inputs import Shared, TrialSettings
from search.trials.sampling.reach import reachable_starts
from search.trials.sampling.space import Domain, decode, domain_of, encode_budget, encode_fraction, start_share


def warm_starts(shared: Shared) -> list[dict[str, Any]]:
    """Return points for the sampler: `origin`, `params` and whether it learns from them (`teaches`).

    The parameters of budgets that are no knapsack include the exact budget and scoring weights. The sampler learns
    from such a budget only if the space is shaped around uniform budgets and has its share, because no parameters
    describe it otherwise.
    """
    settings, arch, domain = shared.settings, shared.arch, domain_of(shared)
    starts = reachable_starts(settings.search, shared.start_spec, settings.prices).kept
    weights = settings.scoring.weights(settings.seed)
    describable = settings.search.space.draws_residuals and CURVES not in settings.search.space.shape.values
    exact = []
    for origin, fraction, spec in _budgets(starts, settings, arch, domain):
        params = encode_budget(spec, fraction, weights, domain)
        exact.append({"origin": origin, "params": params, "teaches": describable and params["fraction"] == fraction})
    pure = [{"origin": f"knapsack {fraction:g}", **_knapsack(fraction, domain)} for fraction in starts.knapsack]
    return exact[:1] + pure + exact[1:] if starts.dense else pure + exact


def _knapsack(fraction: float, domain: Domain) -> dict[str, Any]:
    """Return the parameters of a pure knapsack, and whether they describe it: not if the space leaves out its share."""
    params = encode_fraction(fraction, domain)
    if params["fraction"] == fraction:
        return {"params": params, "teaches": True}
    plan = decode(params | {"fraction": fraction}, domain)
    return {"params": encode_budget(plan.spec, fraction, plan.weights, domain), "teaches": False}


def _budgets(
    starts: WarmStarts, settings: TrialSettings, arch: Architecture, domain: Domain
) -> list[tuple[str, float, ModelSpec]]:
    """Return origin, share of the cost and widths of the budgets that are no knapsack; the dense model comes first.

    If the cost is measured time, the share is one of `flops_paper`, because uniform and the rule's budgets meet counted
    costs only.
    """
    metric, multiple = settings.search.metric, settings.budget.multiple
    budgets: list[tuple[str, float, ModelSpec]] = []
    counted, limits = linear_prices(arch, metric), Limits(multiple=multiple, current=domain.start)
    if starts.dense:
        dense = (DENSE, 1.0, ModelSpec.dense(arch))
        budgets.append(dense if domain.start is None else (DENSE, start_share(domain.start, counted), domain.start))
    for fraction in starts.uniform:
        spec = uniform_to_target(arch, fraction, metric, limits)
        budgets.append((f"uniform {fraction:g}", fraction, spec))
    for fraction in starts.rule:
        spec = rule_to_target(arch, fraction, domain.sensitivity, metric=metric, current=domain.start)
        budgets.append((f"rule {fraction:g}", fraction, spec))
    return budgets
