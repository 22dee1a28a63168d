"""Budgets that meet a cost target, on random inputs against brute force."""

import dataclasses
from functools import cached_property

import numpy as np
import pytest

from medcore.budgets.limits import GroupCosts, Limits, Metric, group_costs
from medcore.budgets.rule import uniform
from medcore.budgets.targets import to_target, uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.sites import Site
from medcore.models.spec import ModelSpec
from medcore.models.tinyvit.arch import TinyVit
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY, halves

VIT_B = ARCHITECTURES["vit_b"]


def costs_of(arch: SamVit, metric: Metric) -> tuple[GroupCosts, np.ndarray, np.ndarray]:
    """Costs, and those of one head and of one channel of each block."""
    costs = group_costs(arch, metric)
    heads, channels = halves(costs.groups)
    return costs, np.array(heads), np.array(channels)


def preferences(generator: np.random.Generator, depth: int) -> np.ndarray:
    """Of all sites; those of heads may be more alike than those of channels, or less."""
    return np.concatenate([generator.lognormal(sigma=generator.choice([0, 1, 3]), size=depth) for _ in range(2)])


@pytest.mark.parametrize("multiple", [8, 16])
def test_rounded_widths_still_meet_the_target(multiple: int) -> None:
    generator = np.random.default_rng(multiple)
    costs, _, channels = costs_of(VIT_B, "flops")
    for _ in range(20):
        shares = generator.lognormal(size=24)
        fraction = generator.uniform(0.2, 0.9)
        spec = to_target(VIT_B, shares, fraction, "flops", Limits(multiple=multiple))
        assert all(count % multiple == 0 for count in spec.family("channels"))
        assert abs(cost(spec).flops / costs.dense - fraction) <= 0.5 * multiple * channels.max() / costs.dense + 1e-9
    with pytest.raises(MedcoreError, match="no multiples of 7"):
        to_target(VIT_B, np.ones(24), 0.5, limits=Limits(multiple=7))


def test_a_pruned_model_is_cut_further_and_never_grows() -> None:
    generator = np.random.default_rng(4)
    current = to_target(VIT_B, generator.lognormal(size=24), 0.6)
    further = to_target(VIT_B, generator.lognormal(size=24), 0.4, limits=Limits((3,), current=current))
    assert (np.array(further.widths) <= current.widths).all()
    assert all(further.family(name)[3] == current.family(name)[3] for name in ("heads", "channels"))
    assert cost(further).flops_paper / cost(ModelSpec.dense(VIT_B)).flops_paper == pytest.approx(0.4, abs=1e-3)
    protected = uniform_to_target(VIT_B, 0.5, limits=Limits((10, 11)))
    assert protected.family("heads")[10:] == (12, 12) and len(set(protected.family("channels")[:10])) <= 2


@pytest.mark.parametrize("metric", ["flops", "flops_paper"])
@pytest.mark.parametrize("arch", [TINY, VIT_B])
def test_to_target_misses_by_less_than_a_group(arch: SamVit, metric: Metric) -> None:
    costs, of_heads, of_channels = costs_of(arch, metric)
    generator = np.random.default_rng(1)
    for _ in range(40):
        shares = preferences(generator, arch.depth)
        fraction = generator.uniform(costs.fixed / costs.dense, 1)
        spec = to_target(arch, shares, fraction, metric)
        miss = abs(getattr(cost(spec), metric) - fraction * costs.dense)
        free = 0 < sum(spec.family("channels")) < arch.mlp_dim * arch.depth
        assert miss <= 0.5 * (of_channels.max() if free else of_heads.max()) * (1 + 1e-9)


def test_to_target_meets_the_decoders_cost_to_its_cheapest_group() -> None:
    """The decoder's families do not come with falling cost of a group: image heads come after channels."""
    arch = dataclasses.replace(VIT_B, parts=("decoder",))
    costs = group_costs(arch, "decoder_flops")
    names = np.array([site.family.name for site in arch.sites])
    generator = np.random.default_rng(5)
    were_free = 0
    for _ in range(30):
        fraction = generator.uniform(0.3, 0.95)
        spec = to_target(arch, generator.lognormal(size=len(arch.sites)), fraction, "decoder_flops")
        free = any(0 < count < 2048 for count in spec.family("decoder_channels"))
        last = costs.groups[names == ("decoder_channels" if free else "decoder_image_heads")].max()
        assert abs(cost(spec).decoder_flops - fraction * costs.dense) <= 0.5 * last * (1 + 1e-9)
        were_free += free
    assert were_free >= 10


@dataclasses.dataclass(frozen=True)
class CostlyInteriors(TinyVit):
    """A TinyViT in which the interior of a block, without its heads and channels, costs more than what holds it."""

    @cached_property
    def encoder_sites(self) -> tuple[Site, ...]:
        return tuple(
            dataclasses.replace(site, cost=site.cost * 20) if site.family.name == "interiors" else site
            for site in super().encoder_sites
        )


def test_to_target_settles_a_holder_before_the_holders_within_it() -> None:
    """What a lost holder holds is lost with it, so its cost cannot stay settled."""
    dense = ARCHITECTURES["lite_medsam"]
    arch = CostlyInteriors(**{field.name: getattr(dense, field.name) for field in dataclasses.fields(TinyVit)})
    costs = group_costs(arch, "encoder_params")
    prices = {site.family.name: price for site, price in zip(arch.sites, costs.groups, strict=True)}
    assert prices["interiors"] > prices["blocks"]
    generator = np.random.default_rng(0)
    lost = 0
    for _ in range(10):
        fraction = generator.uniform(0.2, 0.9)
        spec = to_target(arch, generator.lognormal(sigma=2, size=len(arch.sites)), fraction, "encoder_params")
        assert abs(cost(spec).encoder_params - fraction * costs.dense) <= max(prices["channels"], prices["merges"])
        lost += spec.family("blocks").count(0)
    assert lost


def test_to_target_heads_match_a_full_sort() -> None:
    """The bisection finds what sorting all groups by threshold finds."""
    generator = np.random.default_rng(2)
    costs, of_heads, of_channels = costs_of(TINY, "flops_paper")
    for _ in range(100):
        shares = preferences(generator, 4)
        fraction = generator.uniform(costs.fixed / costs.dense, 1)
        events = [
            ((number + 0.5) / (shares[4 * kind + block] * width), kind, block, unit[block])
            for kind, width, unit in ((0, 3, of_heads), (1, 48, of_channels))
            for block in range(4)
            for number in range(width)
        ]
        events.sort()
        reached = costs.fixed + np.concatenate([[0], np.cumsum([event[3] for event in events])])
        kept = events[: int(np.argmin(np.abs(reached - fraction * costs.dense)))]
        expected = tuple(sum(1 for _, kind, at, _ in kept if (kind, at) == (0, block)) for block in range(4))
        assert to_target(TINY, shares, fraction).family("heads") == expected


def test_to_target_is_monotone() -> None:
    generator = np.random.default_rng(3)
    for arch in (TINY, VIT_B):
        shares = preferences(generator, arch.depth)
        costs, _, of_channels = costs_of(arch, "flops_paper")
        step = of_channels.max() / costs.dense
        fractions = np.arange(costs.fixed / costs.dense, 1, max(step, 0.01))
        specs = [to_target(arch, shares, fraction) for fraction in fractions]
        heads = np.array([spec.family("heads") for spec in specs])
        assert (np.diff(heads, axis=0) >= 0).all()
        assert (np.diff([cost(spec).flops_paper for spec in specs]) >= 0).all()


def test_equal_preferences_give_equal_blocks() -> None:
    for fraction in (0.2, 0.37, 0.6, 0.9):
        spec = uniform_to_target(VIT_B, fraction)
        assert spec == to_target(VIT_B, [0.4] * 24, fraction)
        assert (
            max(spec.family("heads")) - min(spec.family("heads")) <= 1
            and max(spec.family("channels")) - min(spec.family("channels")) <= 1
        )
        # both families keep the same share, to about one group a block
        assert np.mean(spec.family("heads")) / 12 == pytest.approx(np.mean(spec.family("channels")) / 3072, abs=0.05)
    half = uniform(VIT_B, {"heads": 0.5, "channels": 0.5})
    fraction = cost(half).flops_paper / cost(ModelSpec.dense(VIT_B)).flops_paper
    assert uniform_to_target(VIT_B, fraction) == half


def test_scale_of_preferences_is_immaterial_and_zero_comes_last() -> None:
    shares = np.array([1.0, 2.0, 0.5, 1.0] * 2)
    assert to_target(TINY, shares, 0.6) == to_target(TINY, 7 * shares, 0.6)
    no_heads = np.repeat([0.0, 1.0], 4)
    spec = to_target(TINY, no_heads, 0.7)
    assert sum(spec.family("heads")) == 0 or min(spec.family("channels")) == 48
    assert to_target(TINY, no_heads, 1.0).is_dense


def test_protected_blocks_and_minima_hold() -> None:
    limits = Limits((10, 11), {"heads": 2, "channels": 200})
    spec = to_target(VIT_B, np.ones(24), 0.4, limits=limits)
    assert spec.family("heads")[10:] == (12, 12) and spec.family("channels")[10:] == (3072, 3072)
    assert min(spec.family("heads")) >= 2 and min(spec.family("channels")) >= 200


def test_unreachable_fraction_names_the_smallest() -> None:
    costs = group_costs(VIT_B, "flops_paper")
    smallest = np.ceil(costs.fixed / costs.dense * 1e4) / 1e4
    with pytest.raises(MedcoreError, match=f"smallest attainable is {smallest:.4f}"):
        to_target(VIT_B, np.ones(24), smallest - 2e-4)
    spec = to_target(VIT_B, np.ones(24), smallest)
    assert cost(spec).flops_paper <= smallest * costs.dense
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(MedcoreError, match="fraction must lie in"):
            uniform_to_target(VIT_B, fraction)
    with pytest.raises(MedcoreError, match="all preferences are 0"):
        to_target(VIT_B, np.zeros(24), 0.5)
    with pytest.raises(MedcoreError, match="unknown metric"):
        uniform_to_target(VIT_B, 0.5, "seconds")  # type: ignore[arg-type]


def plain_uniform(arch: SamVit, fraction: float) -> ModelSpec:
    return to_target(arch, np.ones(2 * arch.depth), fraction)


def test_uniform_budgets_lean_to_heads_only_where_most_blocks_would_lose_all(caplog: pytest.LogCaptureFixture) -> None:
    narrow = SamVit("narrow", 256, 16, 192, 12, 6, 4, 256, 8, (2, 5, 8, 11))
    leaning = 0
    for fraction in np.arange(0.04, 0.3, 0.01):
        caplog.clear()
        plain, spec = plain_uniform(narrow, fraction), uniform_to_target(narrow, fraction)
        if sum(width > 0 for width in plain.family("heads")) >= 6:
            assert spec == plain and not caplog.records
            continue
        leaning += 1
        assert spec == to_target(narrow, np.repeat([4.0, 1.0], 12), fraction)
        assert sum(spec.family("heads")) > sum(plain.family("heads"))
        assert "no head in most blocks" in caplog.text and "heads is 4 times" in caplog.text
        spent = [cost(each).flops_paper / cost(ModelSpec.dense(narrow)).flops_paper for each in (plain, spec)]
        assert spent == pytest.approx([fraction, fraction], abs=2e-4)
    assert 3 < leaning < 20


def test_sites_that_are_empty_or_protected_do_not_make_a_uniform_budget_lean() -> None:
    limits = Limits(tuple(range(11)))
    assert uniform_to_target(VIT_B, 0.93, limits=limits) == to_target(VIT_B, np.ones(24), 0.93, limits=limits)
    current = to_target(VIT_B, np.repeat([1e-9, 1.0], 12), 0.3)
    assert sum(current.family("heads")) == 0
    limits = Limits(current=current)
    assert uniform_to_target(VIT_B, 0.2, limits=limits) == to_target(VIT_B, np.ones(24), 0.2, limits=limits)
