"""Trials that run before the sampler's own: budgets a person would try first.

They give every front its anchors (dense, uniform, the paper's rule) and the sampler something good to start from.
"""

from __future__ import annotations

from typing import Any

from medcore.budgets.rule import smallest_fraction, uniform_to_target
from medcore.budgets.rule_target import rule_to_target
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture, EncoderSpec
from search.base.config import Config, scoring_weights
from search.study.inputs import Shared
from search.trials.space import domain_of, encode_budget


def warm_starts(shared: Shared) -> list[dict[str, Any]]:
    """Points for the sampler: `origin` and `params`, the exact budget and scoring weights among them."""
    search, arch, domain = shared.config.search, shared.arch, domain_of(shared)
    multiple = shared.config.budget.channel_multiple
    budgets: list[tuple[str, float, EncoderSpec]] = []
    if search.warm_starts.dense:
        budgets.append(("dense", 1.0, EncoderSpec.dense(arch)))
    budgets += [
        (f"uniform {fraction:g}", fraction, uniform_to_target(arch, fraction, search.cost, multiple=multiple))
        for fraction in search.warm_starts.uniform
    ]
    budgets += [
        (f"rule {fraction:g}", fraction, rule_to_target(arch, fraction, domain.sensitivity, metric=search.cost))
        for fraction in search.warm_starts.rule
    ]
    weights = scoring_weights(shared.config.scoring, shared.config.seed)
    return [
        {"origin": origin, "params": encode_budget(spec, fraction, weights, domain)}
        for origin, fraction, spec in budgets
    ]


def check_warm_starts(config: Config, arch: Architecture) -> None:
    """Raise `MedcoreError` for a budget that no pruning of this architecture reaches, before anything is computed."""
    least = smallest_fraction(arch, config.search.cost)
    starts = config.search.warm_starts
    if low := sorted({fraction for fraction in (*starts.uniform, *starts.rule) if fraction < least}):
        names = ", ".join(f"{fraction:g}" for fraction in low)
        raise MedcoreError(
            f"search.warm_starts: {names} of the {config.search.cost} is out of reach; {least:.4f} of {arch.name} is "
            "left when every head and channel is gone"
        )
