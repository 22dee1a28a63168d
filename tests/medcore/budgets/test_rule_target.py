"""The paper's rule at a FLOPs target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcore.budgets.rule_target import rule_to_target
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY

VIT_B = ARCHITECTURES["vit_b"]


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.3, 0.15])
def test_target_is_met_from_below_and_closely(fraction: float) -> None:
    sensitivity = np.random.default_rng(1).uniform(0.2, 3, VIT_B.depth)
    spec = rule_to_target(VIT_B, fraction, sensitivity)
    reached = cost(spec).flops_paper / cost(ModelSpec.dense(VIT_B)).flops_paper
    assert fraction - 0.008 <= reached <= fraction


def test_last_blocks_are_protected_while_that_is_possible() -> None:
    sensitivity = np.ones(VIT_B.depth)
    assert rule_to_target(VIT_B, 0.5, sensitivity).family("channels")[-2:] == (3072, 3072)
    assert max(rule_to_target(VIT_B, 0.12, sensitivity).family("channels")[-2:]) < 3072


def test_unreachable_target_says_so() -> None:
    with pytest.raises(MedcoreError, match="cannot reach"):
        rule_to_target(VIT_B, 0.02, np.ones(VIT_B.depth))


def test_a_block_named_twice_is_protected_once() -> None:
    sensitivity = np.ones(VIT_B.depth)
    for fraction in (0.5, 0.3, 0.25):
        expected = rule_to_target(VIT_B, fraction, sensitivity, protected=(10, 11))
        assert rule_to_target(VIT_B, fraction, sensitivity, protected=(11, 10, 11, 11)) == expected
    with pytest.raises(MedcoreError, match="protected names block 12"):
        rule_to_target(VIT_B, 0.5, sensitivity, protected=(12,))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_encoders(depth: int) -> None:
    arch = replace(TINY, depth=depth, global_attn_indexes=())
    spec = rule_to_target(arch, 0.6, np.ones(depth))
    assert cost(spec).flops_paper <= 0.6 * cost(ModelSpec.dense(arch)).flops_paper
