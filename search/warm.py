"""Trials that run before the sampler's own: budgets a person would try first.

They give every front its anchors (dense, uniform, the paper's rule) and the sampler something good to start from.
"""

from __future__ import annotations

from typing import Any

from medcore.budgets import uniform_to_target
from medcore.rule_target import rule_to_target
from medcore.scores import block_sensitivity
from medcore.spec import EncoderSpec
from search.space import encode_budget
from search.study import Shared, scoring_weights


def warm_starts(shared: Shared) -> list[dict[str, Any]]:
    """Points for the sampler: `origin`, nearest `params`, and the exact `budget` in them."""
    search, arch = shared.config.search, shared.arch
    budgets: list[tuple[str, float, EncoderSpec]] = []
    if search.warm_starts.dense:
        budgets.append(("dense", 1.0, EncoderSpec.dense(arch)))
    budgets += [
        (f"uniform {fraction:g}", fraction, uniform_to_target(arch, fraction, search.cost))
        for fraction in search.warm_starts.uniform
    ]
    sensitivity = block_sensitivity(shared.table, scoring_weights(shared.config.scoring))
    budgets += [
        (f"rule {fraction:g}", fraction, rule_to_target(arch, fraction, sensitivity, metric=search.cost))
        for fraction in search.warm_starts.rule
    ]
    return [
        {
            "origin": origin,
            "params": encode_budget(spec, fraction, shared.config, shared.datasets)
            | {"budget": {"heads": list(spec.heads), "channels": list(spec.channels)}},
        }
        for origin, fraction, spec in budgets
    ]
