"""Budgets by predicted loss: costs, limits and curves of real architectures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medcore.budgets.knapsack import (
    Target,
    budget_within,
    knapsack_budget,
    offered_widths,
    scaled_curves,
    smallest_share,
)
from medcore.budgets.limits import Limits, Metric, smallest_fraction
from medcore.budgets.prices import Prices, linear_prices
from medcore.budgets.targets import to_target
from medcore.errors import ConfigError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY
from tests.support.toy.samples import DENSE, PLACES, TOY

#: Figures in which every group of these encoders costs something.
METRICS: tuple[Metric, ...] = ("flops_paper", "flops", "encoder_params")

VIT_B = ARCHITECTURES["vit_b"]
#: Small enough to try all budgets: two blocks of two heads and four channels.
SMALL = SamVit("small", 32, 8, 16, 2, 2, 0.25, 16, 2, ())


def curves_of(arch: Architecture, seed: int) -> PerSite:
    """Falling, convex, of random heights."""
    chance = np.random.default_rng(seed)
    return tuple(
        chance.lognormal(sigma=1.5) * (1 - np.arange(width + 1) / width) ** chance.uniform(1.2, 4)
        for width in arch.dense_widths
    )


def loss_of(curves: PerSite, spec: ModelSpec) -> float:
    return float(sum(curve[width] for curve, width in zip(curves, spec.widths, strict=True)))


def all_specs(arch: Architecture) -> list[ModelSpec]:
    return [ModelSpec(arch, widths) for widths in itertools.product(*(range(w + 1) for w in arch.dense_widths))]


@pytest.mark.parametrize("metric", METRICS)
def test_the_budget_is_the_best_of_all(metric: Metric) -> None:
    specs = all_specs(SMALL)
    spent = np.array([getattr(cost(spec), metric) for spec in specs])
    chance = np.random.default_rng(0)
    for seed in range(15):
        curves = curves_of(SMALL, seed)
        losses = np.array([loss_of(curves, spec) for spec in specs])
        fraction = float(chance.uniform(spent.min() / spent.max(), 1))
        expected = losses[spent <= fraction * spent.max()].min()
        spec = knapsack_budget(SMALL, curves, fraction, metric)
        assert loss_of(curves, spec) == pytest.approx(expected, abs=1e-12)
        assert getattr(cost(spec), metric) <= fraction * spent.max()


def test_two_costs_at_once() -> None:
    specs = all_specs(SMALL)
    spent = {metric: np.array([getattr(cost(spec), metric) for spec in specs]) for metric in METRICS}
    chance, near = np.random.default_rng(1), 0
    for seed in range(20):
        curves = curves_of(SMALL, seed)
        shares = chance.uniform(0.85, 1, 2)
        targets = [Target(linear_prices(SMALL, name), share) for name, share in zip(METRICS[1:], shares, strict=True)]
        fits = [spent[name] <= share * spent[name].max() for name, share in zip(METRICS[1:], shares, strict=True)]
        losses = np.array([loss_of(curves, spec) for spec in specs])
        expected = losses[fits[0] & fits[1]].min()
        found = budget_within(SMALL, curves, targets)
        assert all(target.prices.total(found.spec) <= target.fraction * target.prices.dense for target in targets)
        assert found.bound <= expected + 1e-12 <= found.loss + 2e-12
        assert found.loss == pytest.approx(loss_of(curves, found.spec))
        near += found.loss < expected + 1e-9
    assert near >= 17


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fraction", [0.08, 0.3, 0.8])
def test_a_large_budget_stays_within_its_cost_and_beats_other_shapes(metric: Metric, fraction: float) -> None:
    curves, chance = curves_of(VIT_B, 7), np.random.default_rng(2)
    fraction = max(fraction, smallest_fraction(VIT_B, metric) + 0.02)
    spec = knapsack_budget(VIT_B, curves, fraction, metric)
    reached = getattr(cost(spec), metric) / getattr(cost(ModelSpec.dense(VIT_B)), metric)
    assert fraction - 5e-3 <= reached <= fraction
    assert all(width % 4 == 0 for width in spec.family("channels"))
    others = (to_target(VIT_B, chance.lognormal(size=24), fraction - 1e-3, metric) for _ in range(20))
    assert all(loss_of(curves, spec) <= loss_of(curves, other) for other in others)


def test_everything_is_kept_where_everything_may_cost() -> None:
    assert knapsack_budget(VIT_B, curves_of(VIT_B, 0), 1.0).is_dense
    assert knapsack_budget(TOY, curves_of(TOY, 0), 1.0).is_dense


def test_protected_blocks_minima_and_multiples_hold() -> None:
    limits = Limits((10, 11), {"heads": 2}, {"channels": 0.07}, multiple=8)
    for seed in range(5):
        spec = knapsack_budget(VIT_B, curves_of(VIT_B, seed), 0.35, limits=limits)
        assert spec.family("heads")[10:] == (12, 12) and spec.family("channels")[10:] == (3072, 3072)
        # 215 channels are 7 % of 3072, and 216 is the next multiple of 8
        assert min(spec.family("heads")) >= 2 and min(spec.family("channels")) >= 216
        assert all(width % 8 == 0 for width in spec.family("channels"))


def test_a_pruned_model_never_grows() -> None:
    current = to_target(VIT_B, np.random.default_rng(4).lognormal(size=24), 0.5)
    spec = knapsack_budget(VIT_B, curves_of(VIT_B, 3), 0.3, limits=Limits((2,), current=current))
    assert (np.array(spec.widths) <= current.widths).all()
    assert all(spec.family(name)[2] == current.family(name)[2] for name in ("heads", "channels"))
    assert cost(spec).flops_paper <= 0.3 * cost(ModelSpec.dense(VIT_B)).flops_paper


def test_offered_widths() -> None:
    head, channel = VIT_B.sites[0], VIT_B.sites[-1]
    assert offered_widths(head, 12, 0, 8).tolist() == list(range(13))
    assert offered_widths(head, 5, 2).tolist() == [2, 3, 4, 5]
    assert offered_widths(channel, 18, 3).tolist() == [3, 4, 8, 12, 16, 18]
    assert offered_widths(channel, 30, 3, 8).tolist() == [8, 16, 24, 30]
    assert offered_widths(channel, 5, 3, 8).tolist() == [5]
    assert offered_widths(TINY.sites[-1], 5, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert offered_widths(channel, 0, 0).tolist() == [0]


def without_curve(curves: PerSite, family: str) -> PerSite:
    return tuple(
        np.append(np.full(site.width, np.inf), 0.0) if site.family.name == family else curve
        for site, curve in zip(TOY.sites, curves, strict=True)
    )


def test_sites_without_a_curve_stay_whole() -> None:
    curves = without_curve(without_curve(curves_of(TOY, 1), "blocks"), "stem")
    spec = knapsack_budget(TOY, curves, 0.5, "flops")
    assert spec.family("blocks") == (1, 1, 1) and spec.family("stem") == (10,)
    least = smallest_share(TOY, curves, linear_prices(TOY, "flops"))
    stem = cost(ModelSpec.of(TOY, {**DENSE.budget, "toy_heads": [0] * 3, "hidden": [0] * 3}))
    assert least == pytest.approx(stem.flops / cost(DENSE).flops)
    with pytest.raises(ConfigError, match=r"flops fraction of 0\.1 is out of reach; .* attainable is \d\.\d+ with"):
        knapsack_budget(TOY, curves, 0.1, "flops")
    # a model that has lost groups of such a site keeps what is left of it
    current = ModelSpec.of(TOY, {**DENSE.budget, "stem": [4]})
    assert knapsack_budget(TOY, curves, 0.5, "flops", Limits(current=current)).family("stem") == (4,)


def test_whole_blocks_go_with_what_they_hold() -> None:
    """Blocks with a curve of their own can be cut."""
    cut = 0
    for seed in range(10):
        curves = curves_of(TOY, seed)
        spec = knapsack_budget(TOY, curves, 0.45, "flops")
        assert cost(spec).flops <= 0.45 * cost(DENSE).flops
        for number in (1, 2, 3):
            block = spec.widths[PLACES[f"blocks/{number:02d}"]]
            cut += not block
            if not block:
                assert (
                    spec.widths[PLACES[f"toy_heads/{number:02d}"]] == spec.widths[PLACES[f"hidden/{number:02d}"]] == 0
                )
        kept = knapsack_budget(TOY, curves, 0.8, "flops", Limits((2,)))
        assert [kept.widths[PLACES[f"{family}/02"]] for family in ("blocks", "toy_heads", "hidden")] == [1, 4, 48]
    assert cut > 3


def test_multipliers_and_exponent_shape_the_budget() -> None:
    curves = curves_of(VIT_B, 5)
    plain = knapsack_budget(VIT_B, curves, 0.3)
    assert knapsack_budget(VIT_B, curves, 0.3, multipliers=np.full(24, 7.0)) == plain
    assert knapsack_budget(VIT_B, tuple(1e-6 * curve for curve in curves), 0.3, exponent=0.5) == knapsack_budget(
        VIT_B, curves, 0.3, exponent=0.5
    )
    weights = np.ones(24)
    weights[12:] = 1e-4
    fewer = knapsack_budget(VIT_B, curves, 0.3, multipliers=weights)
    assert sum(fewer.family("heads")) > sum(plain.family("heads"))
    scaled = scaled_curves(VIT_B, curves, weights, 2.0)
    largest = max(float(curve.max()) for curve in curves)
    for weight, before, after in zip(weights, curves, scaled, strict=True):
        np.testing.assert_allclose(after, weight * (before / largest) ** 2)


def test_what_does_not_fit_is_refused() -> None:
    curves = curves_of(TINY, 0)
    with pytest.raises(ConfigError, match=r"7 curves for 8 sites"):
        knapsack_budget(TINY, curves[:-1], 0.6)
    for bad in (curves[0][:-1], -curves[0], np.full(4, np.nan)):
        with pytest.raises(ConfigError, match=r"the curve of heads/00 must hold 4 losses"):
            knapsack_budget(TINY, (bad, *curves[1:]), 0.6)
    for weights in (np.ones(7), np.zeros(8), np.full(8, np.inf)):
        with pytest.raises(ConfigError, match="multipliers must be 8 finite numbers above 0"):
            knapsack_budget(TINY, curves, 0.6, multipliers=weights)
    for exponent in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="exponent"):
            knapsack_budget(TINY, curves, 0.6, exponent=exponent)
    for fraction in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="fraction must lie in"):
            knapsack_budget(TINY, curves, fraction)
    with pytest.raises(ConfigError, match="multiple must be at least 1"):
        knapsack_budget(TINY, curves, 0.6, limits=Limits(multiple=0))
    with pytest.raises(ConfigError, match="protected names block 4"):
        knapsack_budget(TINY, curves, 0.6, limits=Limits((4,)))


def test_the_smallest_attainable_fraction_is_named_and_attainable() -> None:
    curves = curves_of(VIT_B, 0)
    least = smallest_share(VIT_B, curves, linear_prices(VIT_B))
    assert least == pytest.approx(smallest_fraction(VIT_B))
    named = np.ceil(least * 1e4) / 1e4
    with pytest.raises(ConfigError, match=f"smallest attainable is {named:.4f}"):
        knapsack_budget(VIT_B, curves, least - 1e-5)
    assert sum(knapsack_budget(VIT_B, curves, least).widths) == 0
    # each cost is in reach alone, but not both
    steep = [Target(_one_sided(half), 0.4) for half in (0, 1)]
    assert budget_within(TINY, curves_of(TINY, 0), steep[:1]).spec.widths[0]
    with pytest.raises(ConfigError, match=r"no budget found within 0\.4 of half 0 and 0\.4 of half 1 at once"):
        budget_within(TINY, curves_of(TINY, 0), steep)


@pytest.mark.parametrize("metric", METRICS)
def test_the_smallest_fraction_is_in_reach_in_spite_of_rounding(metric: Metric) -> None:
    for depth in range(1, 12):
        arch = SamVit("random", 64, 8, 24, depth, 3, 2, 32, 3, ())
        for protected in ((), (0,)):
            least = smallest_fraction(arch, metric, protected)
            spec = knapsack_budget(arch, curves_of(arch, depth), least, metric, Limits(protected))
            assert sum(spec.widths) == len(protected) * (arch.num_heads + arch.mlp_dim)


def _one_sided(half: int) -> Prices:
    """A cost that falls with the width of one half of the sites and rises with the other, as no real cost does."""
    tables = tuple(
        np.linspace(0, 1, width + 1) if (index < 4) == (half == 0) else np.linspace(1, 0, width + 1)
        for index, width in enumerate(TINY.dense_widths)
    )
    return Prices(tables, 8.0, 0.0, f"half {half}")
