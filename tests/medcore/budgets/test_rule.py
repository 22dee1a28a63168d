"""Budgets of given sparsity: the method's exact figures, and invariants on random inputs."""

import numpy as np
import pytest

from medcore.budgets.limits import Limits
from medcore.budgets.rule import rule, uniform
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY, halves, spec_of

VIT_B = ARCHITECTURES["vit_b"]


def removed(spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    heads, channels = halves(np.subtract(spec.arch.dense_widths, spec.widths))
    return np.array(heads), np.array(channels)


def both(heads: float, channels: float) -> dict[str, float]:
    return {"heads": heads, "channels": channels}


def test_uniform_rounds_half_up() -> None:
    assert uniform(VIT_B, both(0.5, 0.3)) == spec_of(VIT_B, (6,) * 12, (922,) * 12)
    assert uniform(TINY, both(0.5, 0)).family("heads") == (2,) * 4
    assert uniform(TINY, both(1, 1)).is_dense

    with pytest.raises(MedcoreError, match="share of heads must lie in"):
        uniform(TINY, both(1.1, 0.5))
    with pytest.raises(MedcoreError, match="share of channels must lie in"):
        uniform(TINY, both(0.5, float("nan")))


def test_second_stage_adds_up_with_the_first() -> None:
    """The paper's recipe: blocks 0-9 first, then the last two only, together 0.84/0.95."""
    sensitivity = np.random.default_rng(0).lognormal(sigma=2, size=12)
    first = rule(VIT_B, both(0.7, 0.7917), sensitivity, Limits((10, 11)))
    second = rule(VIT_B, both(0.84, 0.95), sensitivity, Limits(tuple(range(10)), current=first))
    gone = removed(second)
    assert (gone[0].sum(), gone[1].sum()) == (121, 35021)
    for family in ("heads", "channels"):
        assert second.family(family)[:10] == first.family(family)[:10]
    share = 1 - cost(second).encoder_params / cost(ModelSpec.dense(VIT_B)).encoder_params
    assert share == pytest.approx(0.866, abs=0.002)
    with pytest.raises(MedcoreError, match=r"earlier stages removed 0\.7014 of all heads"):
        rule(VIT_B, both(0.5, 0.95), sensitivity, Limits(current=first))


@pytest.mark.parametrize(
    ("heads", "mlp", "protected", "expected"),
    [(0.5, 0.7, (10, 11), (72, 25805)), (0.84, 0.95, (), (121, 35021)), (0, 0, (), (0, 0))],
)
def test_rule_meets_the_papers_totals(
    heads: float, mlp: float, protected: tuple[int, ...], expected: tuple[int, int]
) -> None:
    for seed in range(5):
        sensitivity = np.random.default_rng(seed).lognormal(sigma=2, size=12)
        spec = rule(VIT_B, both(heads, mlp), sensitivity, Limits(protected))
        gone = removed(spec)
        assert (gone[0].sum(), gone[1].sum()) == expected
        assert all(gone[0][block] == gone[1][block] == 0 for block in protected)
        assert min(spec.family("heads")) >= 1 and min(spec.family("channels")) >= 153


def test_rule_removes_the_papers_share_of_parameters() -> None:
    # 72 heads and 25 805 channels are 60.0 % of the encoder, and a group's parameters are the same everywhere
    spec = rule(VIT_B, both(0.5, 0.7), np.ones(12), Limits((10, 11)))
    before, after = cost(ModelSpec.dense(VIT_B)).encoder_params, cost(spec).encoder_params
    assert before - after == 72 * 196_800 + 25_805 * 1_537


def test_rule_invariants_on_random_inputs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        depth = int(generator.integers(1, 9))
        arch = SamVit("random", 64, 8, 24, depth, 3, 2, 32, 3, ())
        sensitivity = generator.lognormal(sigma=generator.choice([0.01, 1, 4]), size=depth)
        protected = tuple(np.flatnonzero(generator.random(depth) < 0.2).tolist())
        least = int(generator.integers(0, 3))
        share = float(generator.random())
        caps = np.where(np.isin(np.arange(depth), protected), 0, 48 - int(np.floor(share * 48)))
        sparsity = float(generator.random())
        total = int(np.floor(sparsity * 48 * depth + 0.5))
        limits = Limits(protected, {"heads": least}, {"channels": share})
        if total > caps.sum():
            with pytest.raises(MedcoreError, match=rf"only {caps.sum()} \("):
                rule(arch, both(0, sparsity), sensitivity, limits)
            continue
        gone = removed(rule(arch, both(0, sparsity), sensitivity, limits))[1]
        assert gone.sum() == total and (gone >= 0).all() and (gone <= caps).all()
        weights = np.where(caps > 0, 1 / sensitivity, 0)
        exact = total * weights / max(weights.sum(), 1e-300)
        if (np.ceil(exact) <= caps).all():
            assert (np.abs(gone - exact) < 1).all()
        free = np.flatnonzero(caps > 0)
        by_weight = free[np.argsort(-weights[free], kind="stable")]
        # a less sensitive block never gives up less, but for one group of rounding
        assert (np.diff(gone[by_weight]) <= 1).all()


def test_capped_excess_goes_by_head_room() -> None:
    # by hand: 40 of 4 × 48 at 1/s = 8 : 1 : 1 : 0 with caps of 16 -> 32 4 4 0, capped 16 4 4 0;
    # the excess of 16 is shared by head-room 0 : 12 : 12 : 16 -> 4.8 4.8 6.4 -> 5 5 6
    spec = rule(TINY, both(0, 40 / 192), [0.125, 1, 1, 1e9], Limits(least_share={"channels": 32 / 48}))
    assert removed(spec)[1].tolist() == [16, 9, 9, 6]


def test_rule_without_information_is_uniform() -> None:
    for sensitivity in (np.zeros(12), np.ones(12)):
        assert rule(VIT_B, both(0.5, 0.5), sensitivity) == uniform(VIT_B, both(0.5, 0.5))


def test_rule_refuses_what_it_cannot_do() -> None:
    with pytest.raises(MedcoreError, match=r"only 132 \(0\.9167\)"):
        rule(VIT_B, both(0.95, 0.5), np.ones(12))
    with pytest.raises(MedcoreError, match="protected names block 12"):
        rule(VIT_B, both(0.5, 0.5), np.ones(12), Limits((12,)))
    with pytest.raises(MedcoreError, match="sensitivity must be finite"):
        rule(VIT_B, both(0.5, 0.5), [np.nan] * 12)
    with pytest.raises(MedcoreError, match="sparsity of heads must lie in"):
        rule(VIT_B, both(1.5, 0.5), np.ones(12))
