"""Trials that run before the sampler's own: budgets a person would try first.

They give every front its anchors (dense, uniform, the paper's rule) and give the sampler something good to start from.
"""

from __future__ import annotations

from typing import Any

from medcore.budgets.limits import Limits, smallest_fraction
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture, ModelSpec
from search.base.sections.search import SearchConfig
from search.study.inputs import Shared
from search.trials.sampling.space import domain_of, encode_budget


def warm_starts(shared: Shared) -> list[dict[str, Any]]:
    """Return points for the sampler: `origin` and `params`.

    The latter include the exact budget and scoring weights.
    """
    settings, arch, domain = shared.settings, shared.arch, domain_of(shared)
    starts, metric, multiple = settings.search.warm_starts, settings.search.cost, settings.budget.multiple
    budgets: list[tuple[str, float, ModelSpec]] = []
    if starts.dense:
        budgets.append(("dense", 1.0, ModelSpec.dense(arch)))
    for fraction in starts.uniform:
        spec = uniform_to_target(arch, fraction, metric, Limits(multiple=multiple))
        budgets.append((f"uniform {fraction:g}", fraction, spec))
    # an architecture whose families have no default sparsity has no rule
    for fraction in starts.rule if any(family.sparsity for family in arch.families) else ():
        spec = rule_to_target(arch, fraction, domain.sensitivity, metric=metric)
        budgets.append((f"rule {fraction:g}", fraction, spec))
    weights = settings.scoring.weights(settings.seed)
    return [
        {"origin": origin, "params": encode_budget(spec, fraction, weights, domain)}
        for origin, fraction, spec in budgets
    ]


def check_warm_starts(search: SearchConfig, arch: Architecture) -> None:
    """Check that pruning this architecture can reach the warm starts.

    It needs no computation on models, so it runs before any.

    Raises:
        MedcoreError: A budget is out of reach.
    """
    least = smallest_fraction(arch, search.cost)
    starts = search.warm_starts
    if low := sorted({fraction for fraction in (*starts.uniform, *starts.rule) if fraction < least}):
        names = ", ".join(f"{fraction:g}" for fraction in low)
        raise MedcoreError(
            f"search.warm_starts: {names} of the {search.cost} is out of reach; {least:.4f} of {arch.name} is "
            "left when every group is gone"
        )
