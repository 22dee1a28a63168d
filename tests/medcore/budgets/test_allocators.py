"""The registry of allocators, and what they make of one request."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.limits import Limits
from medcore.budgets.rule import rule
from medcore.budgets.targets import to_target, uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.spec import ModelSpec
from medcore.models.vit import SamVit
from tests.support.helpers import TINY

SENSITIVITY = np.array([0.5, 2.0, 1.0, 4.0])
SPARSITY = {"heads": 0.4, "channels": 0.6}
LIMITS = Limits((3,))


def request_of(arch: SamVit) -> Request:
    return Request(arch, SENSITIVITY, SPARSITY, 0.6, "flops", LIMITS)


def expected_of(name: str) -> ModelSpec:
    if name == "rule":
        return rule(TINY, SPARSITY, SENSITIVITY, LIMITS)
    if name == "uniform":
        return uniform_to_target(TINY, 0.6, "flops", LIMITS)
    return to_target(TINY, [*SENSITIVITY, *SENSITIVITY], 0.6, "flops", LIMITS)


def test_allocators_by_name() -> None:
    assert ALLOCATORS.names() == ("rule", "uniform", "to_target")


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
    first = ALLOCATORS[name](Request(TINY, SENSITIVITY, {"heads": 0.5, "channels": 0.5}, 0.7, limits=limits))
    heads, channels = first.family("heads"), first.family("channels")
    assert (heads[3], channels[3]) == (TINY.num_heads, TINY.mlp_dim)
    assert min(heads) >= 1 and min(channels) >= TINY.mlp_dim // 4
    later = Limits(least_count={"heads": 1}, current=first)
    second = ALLOCATORS[name](Request(TINY, SENSITIVITY, {"heads": 0.6, "channels": 0.6}, 0.4, limits=later))
    assert all(now <= before for now, before in zip(second.widths, first.widths, strict=True))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MedcoreError, match=r"allocator 'best'.*rule, uniform, to_target"):
        ALLOCATORS["best"]
