"""What a budget leaves alone, and what single groups cost."""

import dataclasses

import numpy as np
import pytest

from medcore.budgets.limits import Limits, Metric, group_costs, smallest_fraction, with_rule_minima
from medcore.budgets.targets import to_target
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY, halves, spec_of

VIT_B = ARCHITECTURES["vit_b"]


def test_smallest_fraction_is_where_to_target_gives_up() -> None:
    for protected in ((), (0, 11)):
        least = smallest_fraction(VIT_B, "flops", protected)
        to_target(VIT_B, np.ones(24), least + 1e-9, "flops", Limits(protected))
        with pytest.raises(MedcoreError, match="out of reach"):
            to_target(VIT_B, np.ones(24), least - 1e-4, "flops", Limits(protected))


@pytest.mark.parametrize("metric", ["flops", "flops_paper", "encoder_params"])
@pytest.mark.parametrize("arch", [TINY, VIT_B])
def test_cost_is_linear_in_the_counts(arch: SamVit, metric: Metric) -> None:
    costs = group_costs(arch, metric)
    of_heads, of_channels = halves(costs.groups)
    generator = np.random.default_rng(0)
    for _ in range(10):
        heads = generator.integers(0, arch.num_heads + 1, arch.depth)
        channels = generator.integers(0, arch.mlp_dim + 1, arch.depth)
        spec = spec_of(arch, tuple(heads.tolist()), tuple(channels.tolist()))
        assert getattr(cost(spec), metric) == costs.fixed + heads @ of_heads + channels @ of_channels


def test_minima_are_counts_or_shares_of_the_dense_site() -> None:
    head, channel = TINY.sites[0], TINY.sites[-1]
    assert Limits().least(head) == 0
    assert Limits(least_count={"heads": 2}).least(head) == 2
    # 0.29 · 48 is 13.92, and 0.29 · 100 must not lose a group to its binary representation
    assert Limits(least_share={"channels": 0.29}).least(channel) == 13
    assert Limits(least_share={"channels": 0.29}).least(dataclasses.replace(channel, width=100)) == 29
    assert Limits(least_count={"channels": 20}, least_share={"channels": 0.29}).least(channel) == 20
    for count in (-1, 4):
        with pytest.raises(MedcoreError, match=r"minimum kept \(heads\) must lie in 0..3"):
            Limits(least_count={"heads": count}).least(head)


def test_the_rules_minima_fill_what_is_not_named() -> None:
    limits = with_rule_minima(Limits(least_count={"heads": 0}), TINY)
    assert [limits.least(site) for site in TINY.sites] == [0] * 4 + [2] * 4  # floor(0.05 · 48)
    assert [with_rule_minima(Limits(), TINY).least(site) for site in TINY.sites] == [1] * 4 + [2] * 4
