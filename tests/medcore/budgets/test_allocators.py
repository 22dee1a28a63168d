"""The registry of allocators, and what they make of one request."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import Limits
from medcore.budgets.prices import linear_prices
from medcore.budgets.released_rule import released_rule
from medcore.budgets.rule import rule
from medcore.budgets.targets import to_target, uniform_to_target
from medcore.errors import ConfigError, MedcoreError
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY

SENSITIVITY = np.array([0.5, 2.0, 1.0, 4.0])
SPARSITY = {"heads": 0.4, "channels": 0.6}
LIMITS = Limits((3,))
CURVES = tuple((1 - np.arange(width + 1) / width) ** 2 * (index + 1) for index, width in enumerate(TINY.dense_widths))


def request_of(arch: SamVit) -> Request:
    return Request(arch, SENSITIVITY, SPARSITY, 0.6, "flops", LIMITS, CURVES)


def expected_of(name: str) -> ModelSpec:
    if name == "rule":
        return rule(TINY, SPARSITY, SENSITIVITY, LIMITS)
    if name == "released_rule":
        return released_rule(TINY, SPARSITY, SENSITIVITY, LIMITS)
    if name == "uniform":
        return uniform_to_target(TINY, 0.6, "flops", LIMITS)
    if name == "knapsack":
        return knapsack_budget(TINY, CURVES, 0.6, "flops", LIMITS)
    return to_target(TINY, [*SENSITIVITY, *SENSITIVITY], 0.6, "flops", LIMITS)


def test_allocators_by_name() -> None:
    assert ALLOCATORS.names() == ("rule", "released_rule", "uniform", "to_target", "knapsack")


@pytest.mark.parametrize("name", ALLOCATORS.names())
def test_an_allocator_does_what_its_function_does(name: str) -> None:
    assert ALLOCATORS[name](request_of(TINY)) == expected_of(name)


@pytest.mark.parametrize("name", ALLOCATORS.names())
def test_an_architecture_from_another_process_gets_the_same_budget(name: str) -> None:
    """Its sites are copies, and so are their families."""
    assert TINY.sites
    for arch in (pickle.loads(pickle.dumps(TINY)), copy.deepcopy(TINY)):
        assert ALLOCATORS[name](request_of(arch)).widths == expected_of(name).widths


@pytest.mark.parametrize("name", ALLOCATORS.names())
def test_limits_hold_for_every_allocator(name: str) -> None:
    limits = Limits((3,), least_count={"heads": 1}, least_share={"channels": 0.25})
    half, more = {"heads": 0.5, "channels": 0.5}, {"heads": 0.6, "channels": 0.6}
    first = ALLOCATORS[name](Request(TINY, SENSITIVITY, half, 0.7, limits=limits, curves=CURVES))
    heads, channels = first.family("heads"), first.family("channels")
    assert (heads[3], channels[3]) == (TINY.num_heads, TINY.mlp_dim)
    assert min(heads) >= 1 and min(channels) >= TINY.mlp_dim // 4
    later = Limits(least_count={"heads": 1}, current=first)
    second = ALLOCATORS[name](Request(TINY, SENSITIVITY, more, 0.4, limits=later, curves=CURVES))
    assert all(now <= before for now, before in zip(second.widths, first.widths, strict=True))


def test_the_knapsack_needs_curves() -> None:
    with pytest.raises(ConfigError, match="'knapsack' needs the second-order profile"):
        ALLOCATORS["knapsack"](Request(TINY, SENSITIVITY))


@pytest.mark.parametrize("name", ["uniform", "to_target"])
def test_allocators_of_linear_costs_refuse_prices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' cannot meet a share of encoder_params"):
        ALLOCATORS[name](Request(TINY, SENSITIVITY, prices=linear_prices(TINY, "encoder_params")))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MedcoreError, match=r"allocator 'best'.*rule, uniform, to_target, knapsack"):
        ALLOCATORS["best"]
