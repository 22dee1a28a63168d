"""Allocators: the method's exact figures, and invariants on random inputs against brute force."""

import numpy as np
import pytest

from medcore.budgets.rule import rule, smallest_fraction, to_target, uniform, uniform_to_target
from medcore.budgets.targets import Metric, group_costs
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import Architecture, EncoderSpec
from tests.support.helpers import TINY

VIT_B = ARCHITECTURES["vit_b"]


def removed(spec: EncoderSpec) -> tuple[np.ndarray, np.ndarray]:
    return spec.arch.num_heads - np.array(spec.heads), spec.arch.mlp_dim - np.array(spec.channels)


def test_uniform_rounds_half_up() -> None:
    assert uniform(VIT_B, 0.5, 0.3) == EncoderSpec(VIT_B, (6,) * 12, (922,) * 12)
    assert uniform(TINY, 0.5, 0).heads == (2,) * 4
    assert uniform(TINY, 1, 1).is_dense

    with pytest.raises(MedcoreError, match="head_share must lie in"):
        uniform(TINY, 1.1, 0.5)
    with pytest.raises(MedcoreError, match="channel_share must lie in"):
        uniform(TINY, 0.5, float("nan"))


def test_second_stage_adds_up_with_the_first() -> None:
    """The paper's recipe: blocks 0-9 first, then the last two only, together 0.84/0.95."""
    sensitivity = np.random.default_rng(0).lognormal(sigma=2, size=12)
    first = rule(VIT_B, 0.7, 0.7917, sensitivity, protected=(10, 11))
    second = rule(VIT_B, 0.84, 0.95, sensitivity, protected=tuple(range(10)), current=first)
    gone = removed(second)
    assert (gone[0].sum(), gone[1].sum()) == (121, 35021)
    assert second.heads[:10] == first.heads[:10] and second.channels[:10] == first.channels[:10]
    share = 1 - cost(second).encoder_params / cost(EncoderSpec.dense(VIT_B)).encoder_params
    assert share == pytest.approx(0.866, abs=0.002)
    with pytest.raises(MedcoreError, match=r"earlier stages removed 0\.7014 of all head groups"):
        rule(VIT_B, 0.5, 0.95, sensitivity, current=first)


@pytest.mark.parametrize("multiple", [8, 16])
def test_rounded_widths_still_meet_the_target(multiple: int) -> None:
    generator = np.random.default_rng(multiple)
    costs = group_costs(VIT_B, "flops")
    for _ in range(20):
        preferences = generator.lognormal(size=(2, 12))
        fraction = generator.uniform(0.2, 0.9)
        spec = to_target(VIT_B, *preferences, fraction, "flops", multiple=multiple)
        assert all(count % multiple == 0 for count in spec.channels)
        assert (
            abs(cost(spec).flops / costs.dense - fraction) <= 0.5 * multiple * costs.channels.max() / costs.dense + 1e-9
        )
    with pytest.raises(MedcoreError, match="no multiples of 7"):
        to_target(VIT_B, *np.ones((2, 12)), 0.5, multiple=7)


def test_a_pruned_model_is_cut_further_and_never_grows() -> None:
    generator = np.random.default_rng(4)
    current = to_target(VIT_B, *generator.lognormal(size=(2, 12)), 0.6)
    further = to_target(VIT_B, *generator.lognormal(size=(2, 12)), 0.4, protected=(3,), current=current)
    assert (np.array(further.heads) <= current.heads).all() and (np.array(further.channels) <= current.channels).all()
    assert (further.heads[3], further.channels[3]) == (current.heads[3], current.channels[3])
    assert cost(further).flops_paper / cost(EncoderSpec.dense(VIT_B)).flops_paper == pytest.approx(0.4, abs=1e-3)
    protected = uniform_to_target(VIT_B, 0.5, protected=(10, 11))
    assert protected.heads[10:] == (12, 12) and len(set(protected.channels[:10])) <= 2


def test_smallest_fraction_is_where_to_target_gives_up() -> None:
    for protected in ((), (0, 11)):
        least = smallest_fraction(VIT_B, "flops", protected)
        to_target(VIT_B, *np.ones((2, 12)), least + 1e-9, "flops", protected)
        with pytest.raises(MedcoreError, match="out of reach"):
            to_target(VIT_B, *np.ones((2, 12)), least - 1e-4, "flops", protected)


@pytest.mark.parametrize(
    ("heads", "mlp", "protected", "expected"),
    [(0.5, 0.7, (10, 11), (72, 25805)), (0.84, 0.95, (), (121, 35021)), (0, 0, (), (0, 0))],
)
def test_rule_meets_the_papers_totals(
    heads: float, mlp: float, protected: tuple[int, ...], expected: tuple[int, int]
) -> None:
    for seed in range(5):
        sensitivity = np.random.default_rng(seed).lognormal(sigma=2, size=12)
        spec = rule(VIT_B, heads, mlp, sensitivity, protected)
        gone = removed(spec)
        assert (gone[0].sum(), gone[1].sum()) == expected
        assert all(gone[0][block] == gone[1][block] == 0 for block in protected)
        assert min(spec.heads) >= 1 and min(spec.channels) >= 153


def test_rule_removes_the_papers_share_of_parameters() -> None:
    # 72 heads and 25 805 channels are 60.0 % of the encoder, and a group's parameters are the same everywhere
    spec = rule(VIT_B, 0.5, 0.7, np.ones(12), (10, 11))
    before, after = cost(EncoderSpec.dense(VIT_B)).encoder_params, cost(spec).encoder_params
    assert before - after == 72 * 196_800 + 25_805 * 1_537


def test_rule_invariants_on_random_inputs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        depth = int(generator.integers(1, 9))
        arch = Architecture("random", 64, 8, 24, depth, 3, 2, 32, 3, ())
        sensitivity = generator.lognormal(sigma=generator.choice([0.01, 1, 4]), size=depth)
        protected = tuple(np.flatnonzero(generator.random(depth) < 0.2).tolist())
        least = int(generator.integers(0, 3))
        share = float(generator.random())
        caps = np.where(np.isin(np.arange(depth), protected), 0, 48 - int(np.floor(share * 48)))
        sparsity = float(generator.random())
        total = int(np.floor(sparsity * 48 * depth + 0.5))
        if total > caps.sum():
            with pytest.raises(MedcoreError, match=rf"only {caps.sum()} \("):
                rule(arch, 0, sparsity, sensitivity, protected, least, share)
            continue
        gone = removed(rule(arch, 0, sparsity, sensitivity, protected, least, share))[1]
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
    spec = rule(TINY, 0, 40 / 192, [0.125, 1, 1, 1e9], min_channel_share=32 / 48)
    assert removed(spec)[1].tolist() == [16, 9, 9, 6]


def test_rule_without_information_is_uniform() -> None:
    for sensitivity in (np.zeros(12), np.ones(12)):
        assert rule(VIT_B, 0.5, 0.5, sensitivity) == uniform(VIT_B, 0.5, 0.5)


def test_rule_refuses_what_it_cannot_do() -> None:
    with pytest.raises(MedcoreError, match=r"only 132 \(0\.9167\)"):
        rule(VIT_B, 0.95, 0.5, np.ones(12))
    with pytest.raises(MedcoreError, match="protected names block 12"):
        rule(VIT_B, 0.5, 0.5, np.ones(12), (12,))
    with pytest.raises(MedcoreError, match="sensitivity must be finite"):
        rule(VIT_B, 0.5, 0.5, [np.nan] * 12)
    with pytest.raises(MedcoreError, match="head_sparsity must lie in"):
        rule(VIT_B, 1.5, 0.5, np.ones(12))


@pytest.mark.parametrize("metric", ["flops", "flops_paper", "encoder_params"])
@pytest.mark.parametrize("arch", [TINY, VIT_B])
def test_cost_is_linear_in_the_counts(arch: Architecture, metric: Metric) -> None:
    costs = group_costs(arch, metric)
    generator = np.random.default_rng(0)
    for _ in range(10):
        heads = generator.integers(0, arch.num_heads + 1, arch.depth)
        channels = generator.integers(0, arch.mlp_dim + 1, arch.depth)
        spec = EncoderSpec(arch, tuple(heads.tolist()), tuple(channels.tolist()))
        assert getattr(cost(spec), metric) == costs.fixed + heads @ costs.heads + channels @ costs.channels


def preferences(generator: np.random.Generator, depth: int) -> np.ndarray:
    return generator.lognormal(sigma=generator.choice([0, 1, 3]), size=depth)


@pytest.mark.parametrize("metric", ["flops", "flops_paper"])
@pytest.mark.parametrize("arch", [TINY, VIT_B])
def test_to_target_misses_by_less_than_a_group(arch: Architecture, metric: Metric) -> None:
    costs = group_costs(arch, metric)
    generator = np.random.default_rng(1)
    for _ in range(40):
        heads, channels = preferences(generator, arch.depth), preferences(generator, arch.depth)
        fraction = generator.uniform(costs.fixed / costs.dense, 1)
        spec = to_target(arch, heads, channels, fraction, metric)
        miss = abs(getattr(cost(spec), metric) - fraction * costs.dense)
        free = 0 < sum(spec.channels) < arch.mlp_dim * arch.depth
        assert miss <= 0.5 * (costs.channels.max() if free else costs.heads.max()) * (1 + 1e-9)


def test_to_target_heads_match_a_full_sort() -> None:
    """The bisection finds what sorting all groups by threshold finds."""
    generator = np.random.default_rng(2)
    costs = group_costs(TINY, "flops_paper")
    for _ in range(100):
        shares = preferences(generator, 4), preferences(generator, 4)
        fraction = generator.uniform(costs.fixed / costs.dense, 1)
        events = [
            ((number + 0.5) / (shares[kind][block] * width), kind, block, unit[block])
            for kind, width, unit in ((0, 3, costs.heads), (1, 48, costs.channels))
            for block in range(4)
            for number in range(width)
        ]
        events.sort()
        reached = costs.fixed + np.concatenate([[0], np.cumsum([event[3] for event in events])])
        kept = events[: int(np.argmin(np.abs(reached - fraction * costs.dense)))]
        expected = tuple(sum(1 for _, kind, at, _ in kept if (kind, at) == (0, block)) for block in range(4))
        assert to_target(TINY, *shares, fraction).heads == expected


def test_to_target_is_monotone() -> None:
    generator = np.random.default_rng(3)
    for arch in (TINY, VIT_B):
        shares = preferences(generator, arch.depth), preferences(generator, arch.depth)
        costs = group_costs(arch, "flops_paper")
        step = costs.channels.max() / costs.dense
        fractions = np.arange(costs.fixed / costs.dense, 1, max(step, 0.01))
        specs = [to_target(arch, *shares, fraction) for fraction in fractions]
        heads = np.array([spec.heads for spec in specs])
        assert (np.diff(heads, axis=0) >= 0).all()
        assert (np.diff([cost(spec).flops_paper for spec in specs]) >= 0).all()


def test_equal_preferences_give_equal_blocks() -> None:
    for fraction in (0.2, 0.37, 0.6, 0.9):
        spec = uniform_to_target(VIT_B, fraction)
        assert spec == to_target(VIT_B, [0.4] * 12, [0.4] * 12, fraction)
        assert max(spec.heads) - min(spec.heads) <= 1 and max(spec.channels) - min(spec.channels) <= 1
        # both families keep the same share, to about one group a block
        assert np.mean(spec.heads) / 12 == pytest.approx(np.mean(spec.channels) / 3072, abs=0.05)
    half = uniform(VIT_B, 0.5, 0.5)
    fraction = cost(half).flops_paper / cost(EncoderSpec.dense(VIT_B)).flops_paper
    assert uniform_to_target(VIT_B, fraction) == half


def test_scale_of_preferences_is_immaterial_and_zero_comes_last() -> None:
    shares = np.array([1.0, 2.0, 0.5, 1.0])
    assert to_target(TINY, shares, shares, 0.6) == to_target(TINY, 7 * shares, 7 * shares, 0.6)
    spec = to_target(TINY, np.zeros(4), np.ones(4), 0.7)
    assert sum(spec.heads) == 0 or min(spec.channels) == 48
    assert to_target(TINY, np.zeros(4), np.ones(4), 1.0).is_dense


def test_protected_blocks_and_minima_hold() -> None:
    spec = to_target(VIT_B, np.ones(12), np.ones(12), 0.4, protected=(10, 11), min_heads=2, min_channels=200)
    assert spec.heads[10:] == (12, 12) and spec.channels[10:] == (3072, 3072)
    assert min(spec.heads) >= 2 and min(spec.channels) >= 200


def test_unreachable_fraction_names_the_smallest() -> None:
    costs = group_costs(VIT_B, "flops_paper")
    smallest = np.ceil(costs.fixed / costs.dense * 1e4) / 1e4
    with pytest.raises(MedcoreError, match=f"smallest attainable is {smallest:.4f}"):
        to_target(VIT_B, np.ones(12), np.ones(12), smallest - 2e-4)
    spec = to_target(VIT_B, np.ones(12), np.ones(12), smallest)
    assert cost(spec).flops_paper <= smallest * costs.dense
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(MedcoreError, match="fraction must lie in"):
            uniform_to_target(VIT_B, fraction)
    with pytest.raises(MedcoreError, match="all preferences are 0"):
        to_target(VIT_B, np.zeros(12), np.zeros(12), 0.5)
    with pytest.raises(MedcoreError, match="unknown metric"):
        uniform_to_target(VIT_B, 0.5, "seconds")  # type: ignore[arg-type]
