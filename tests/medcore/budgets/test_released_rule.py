"""The rule as the released code applies it: its counts on ViT-B, and a plain version of the same steps."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from medcore.budgets.limits import Limits
from medcore.budgets.released_rule import released_rule
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, halves, spec_of

VIT_B = ARCHITECTURES["vit_b"]
LAST, FIRST = (10, 11), tuple(range(10))


def both(heads: float, channels: float) -> dict[str, float]:
    return {"heads": heads, "channels": channels}


def two_stages(sensitivity: np.ndarray, fresh: np.ndarray) -> ModelSpec:
    """Blocks 0-9 at 0.7/0.95, then 0.14/0.158 more from blocks 10 and 11."""
    first = released_rule(VIT_B, both(0.7, 0.95), sensitivity, Limits(LAST))
    return released_rule(VIT_B, both(0.14, 0.158), fresh, Limits(FIRST, current=first))


def by_hand(sensitivity: np.ndarray, total: float, width: int, least: int, protected: tuple[int, ...]) -> list[int]:
    """Groups that each block gives up, step by step as a person would write them down."""
    blocks = [block for block in range(len(sensitivity)) if block not in protected]
    cap = width - least
    weights = {block: 1 / (sensitivity[block] + 1e-12) for block in blocks}
    wanted, whole = round(total), sum(weights.values())
    gone = {block: min(round(wanted * weights[block] / whole), cap) for block in blocks}
    while sum(gone.values()) < wanted and any(gone[block] < cap for block in blocks):
        roomy = max(blocks, key=lambda block: (cap - gone[block], -block))
        gone[roomy] += min(cap - gone[roomy], wanted - sum(gone.values()))
    while sum(gone.values()) > wanted:
        largest = max(blocks, key=lambda block: (gone[block], -block))
        gone[largest] -= min(gone[largest], sum(gone.values()) - wanted)
    return [gone.get(block, 0) for block in range(len(sensitivity))]


def removed(spec: ModelSpec) -> tuple[list[int], list[int]]:
    heads, channels = halves(np.subtract(spec.arch.dense_widths, spec.widths).tolist())
    return list(heads), list(channels)


def test_one_shot_removes_what_the_paper_says() -> None:
    for seed in range(5):
        sensitivity = np.random.default_rng(seed).lognormal(sigma=2, size=12)
        spec = released_rule(VIT_B, both(0.5, 0.7), sensitivity, Limits(LAST))
        heads, channels = removed(spec)
        assert (sum(heads), sum(channels)) == (72, 25805)
        assert heads[10:] == channels[10:] == [0, 0]
        before, after = cost(ModelSpec.dense(VIT_B)).encoder_params, cost(spec).encoder_params
        assert before - after == 72 * 196_800 + 25_805 * 1_537
        assert 1 - after / before == pytest.approx(0.600, abs=5e-4)


def test_two_stages_leave_the_papers_figures() -> None:
    """86.6 % of the parameters go in any case; 90.44 G are left where heads of global attention go first."""
    dense = cost(ModelSpec.dense(VIT_B))
    for seed in range(5):
        # blocks 2, 5 and 8 keep one head each, and blocks 10 and 11 two each
        sensitivity = np.random.default_rng(seed).lognormal(sigma=0.5, size=12)
        sensitivity[[2, 5, 8]] = 0.1
        spec = two_stages(sensitivity, np.ones(12))
        heads, channels = removed(spec)
        assert (sum(heads), sum(channels)) == (121, 10 * 2918 + 5825)
        assert heads[10:] == [10, 10] and min(spec.family("channels")) >= 154
        assert 1 - cost(spec).encoder_params / dense.encoder_params == pytest.approx(0.866, abs=1e-3)
        assert round(cost(spec).flops_paper / 1e9, 2) == 90.44


def test_counts_of_two_stages_do_not_depend_on_the_sensitivities() -> None:
    """The FLOPs do: a head of a block with global attention costs three times as much."""
    fixed, window, everywhere = 4.832e9 + 1859 * 12.583e6, 1.816e9, 5.906e9
    for seed in range(20):
        random = np.random.default_rng(seed)
        spec = two_stages(random.lognormal(sigma=2, size=12), random.lognormal(sigma=0.1, size=12))
        heads, channels = removed(spec)
        assert sum(heads) == 121 and sum(channels) == 35005
        kept = sum(spec.family("heads")[block] for block in (2, 5, 8, 11))
        expected = fixed + (23 - kept) * window + kept * everywhere
        assert cost(spec).flops_paper == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", range(30))
def test_it_takes_the_steps_of_the_released_code(seed: int) -> None:
    random = np.random.default_rng(seed)
    sensitivity = random.lognormal(sigma=random.choice([0.1, 1, 3]), size=12)
    protected = tuple(np.flatnonzero(random.random(12) < 0.2).tolist())
    shares = random.random(2)
    spec = released_rule(VIT_B, both(*shares), sensitivity, Limits(protected))
    heads, channels = removed(spec)
    assert heads == by_hand(sensitivity, shares[0] * 144, 12, 1, protected)
    assert channels == by_hand(sensitivity, shares[1] * 36864, 3072, 154, protected)


def test_the_remainder_goes_to_the_block_with_most_room() -> None:
    # by hand: 40 of 4 × 48 at 1/s = 8 : 1 : 1 : 0 with caps of 16 -> 32 4 4 0, capped 16 4 4 0;
    # the rest of 16 fills the block with most room, the most sensitive one
    limits = Limits(least_share={"channels": 32 / 48})
    spec = released_rule(TINY, both(0, 40 / 192), np.array([0.125, 1, 1, 1e9]), limits)
    assert removed(spec)[1] == [16, 4, 4, 16]


def test_what_the_caps_do_not_allow_stays_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spec = released_rule(VIT_B, both(0.95, 0.5), np.ones(12))
    assert sum(removed(spec)[0]) == 132
    assert "137 heads" in caplog.text and "only 132" in caplog.text


def test_a_sparsity_is_what_this_stage_removes() -> None:
    first = spec_of(TINY, (2, 2, 3, 3), (48, 48, 24, 24))
    spec = released_rule(TINY, both(0.25, 0.25), np.ones(4), Limits(current=first))
    heads, channels = removed(spec)
    assert (sum(heads), sum(channels)) == (2 + 3, 48 + 48)
    assert all(after <= before for before, after in zip(first.widths, spec.widths, strict=True))


@pytest.mark.parametrize(("sparsity", "sensitivity"), [(1.5, [1.0] * 4), (0.5, [1.0] * 3), (0.5, [np.nan] * 4)])
def test_values_out_of_range_are_refused(sparsity: float, sensitivity: list[float]) -> None:
    with pytest.raises(MedcoreError, match=r"must lie in|sensitivity must hold"):
        released_rule(TINY, both(sparsity, 0), sensitivity)
