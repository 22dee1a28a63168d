"""Budgets of an architecture with four families, unequal widths, and groups that hold other sites."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest

from medcore.budgets.allocators import ALLOCATORS, BY_SPARSITY, Request
from medcore.budgets.limits import Limits, Metric, group_costs, smallest_fraction
from medcore.budgets.rule import rule, uniform
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import per_site, to_target, uniform_to_target
from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.sites import Family, Site
from medcore.models.spec import ModelSpec
from tests.support.toy.arch import Toy
from tests.support.toy.samples import DENSE, PLACES, TOY, random_spec

#: Figures in which every group of these encoders costs something.
METRICS: tuple[Metric, ...] = ("flops_paper", "flops", "encoder_params")

ALL = len(TOY.sites)
#: Default sparsities of the families that MedCore cuts.
SPARSITY = {family.name: family.sparsity for family in TOY.families if family.sparsity}


def preferences(chance: np.random.Generator) -> np.ndarray:
    """Some are much smaller than others, also those of whole blocks."""
    return chance.lognormal(sigma=chance.choice([0.0, 1.0, 3.0]), size=ALL)


def is_open(site: Site, spec: ModelSpec) -> bool:
    """Whether the site's groups may be kept at all."""
    return site.within is None or spec.widths[PLACES[site.within]] > 0


def can_move(family: str, spec: ModelSpec, up: bool) -> bool:
    """Whether a site of the family may grow, or give up a group."""
    pairs = [pair for pair in zip(TOY.sites, spec.widths, strict=True) if pair[0].family.name == family]
    return any(is_open(site, spec) and (width < site.width if up else width > 0) for site, width in pairs)


@pytest.mark.parametrize("metric", METRICS)
def test_to_target_misses_by_less_than_a_group(metric: Metric) -> None:
    costs, chance = group_costs(TOY, metric), np.random.default_rng(1)
    most = {family: max(costs.groups[PLACES[name]] for name in PLACES if name.startswith(f"{family}/"))
            for family in ("toy_heads", "stem", "hidden")}  # fmt: skip
    for _ in range(300):
        fraction = float(chance.uniform(costs.fixed / costs.dense, 1))
        spec = to_target(TOY, preferences(chance), fraction, metric)
        off = fraction * costs.dense - getattr(cost(spec), metric)
        bound = most["hidden"] if can_move("hidden", spec, up=off > 0) else most["toy_heads"]
        assert abs(off) <= 0.5 * bound * (1 + 1e-9), (spec.budget, fraction)
        assert all(width == 0 or is_open(site, spec) for site, width in zip(TOY.sites, spec.widths, strict=True))


def kept_at(scale: Fraction, shares: list[Fraction]) -> tuple[int, ...]:
    """The definition: group k of W is kept from the scale (k - 1/2) / (p·W) on, if the group around it is kept."""
    counts: list[int] = []
    for site, share in zip(TOY.sites, shares, strict=True):
        count = sum(scale >= Fraction(2 * k - 1, 2) / (share * site.width) for k in range(1, site.width + 1))
        counts.append(count if site.within is None or counts[PLACES[site.within]] else 0)
    return tuple(counts)


def test_whole_blocks_are_settled_on_the_common_scale() -> None:
    """Exact arithmetic: the kept blocks are those just below the target on the scale, or just above."""
    chance = np.random.default_rng(2)
    costs = group_costs(TOY, "flops")
    for _ in range(6):
        # distinct to the last digit, so that nothing ties but a block and what it holds
        shares = [Fraction(int(value), 1_000_000) for value in chance.integers(1, 1_000_000, ALL)]
        fraction = float(chance.uniform(costs.fixed / costs.dense, 1))
        scales = sorted({Fraction(2 * k - 1, 2) / (share * site.width)
                         for site, share in zip(TOY.sites, shares, strict=True)
                         for k in range(1, site.width + 1)})  # fmt: skip
        states = [(0,) * ALL, *(kept_at(scale, shares) for scale in scales)]
        reached = [costs.fixed + float(costs.groups @ state) for state in states]
        above = next((index for index, value in enumerate(reached) if value > fraction * costs.dense), len(states) - 1)
        spec = to_target(TOY, [float(share) for share in shares], fraction, "flops")
        assert spec.family("blocks") in {states[index][:3] for index in (max(above - 1, 0), above)}


@pytest.mark.parametrize("metric", METRICS)
def test_any_fraction_is_in_reach_whatever_block_comes_last(metric: Metric) -> None:
    for seed in range(20):
        shares = preferences(np.random.default_rng(seed))
        shares[: len(TOY.heads)] *= 1e-3
        assert to_target(TOY, shares, 1.0, metric).is_dense
        least = smallest_fraction(TOY, metric)
        assert to_target(TOY, shares, least, metric).widths == (0,) * ALL
        with pytest.raises(MedcoreError, match="smallest attainable"):
            to_target(TOY, shares, least - 1e-3, metric)


def test_a_block_that_is_kept_keeps_the_minima_within() -> None:
    chance = np.random.default_rng(3)
    limits = Limits(least_count={"toy_heads": 1}, least_share={"hidden": 0.25})
    gone, narrow = 0, 0
    for _ in range(200):
        fraction = float(chance.uniform(0.1, 1))
        spec = to_target(TOY, preferences(chance), fraction, "flops", limits)
        for number in (1, 2, 3):
            block, heads, hidden = (
                spec.widths[PLACES[f"{family}/{number:02d}"]] for family in ("blocks", "toy_heads", "hidden")
            )
            assert (heads >= 1 and hidden >= TOY.hidden[number - 1] // 4) if block else heads == hidden == 0
            gone += not block
            narrow += heads == 1
        # a block brings its least along, so the last group to move may be a whole block
        assert cost(spec).flops / cost(DENSE).flops == pytest.approx(fraction, abs=0.1)
    assert gone > 20 and narrow > 20
    # only whole blocks can be given up below their minima
    assert smallest_fraction(TOY, "flops") == pytest.approx(
        cost(to_target(TOY, np.ones(ALL), smallest_fraction(TOY, "flops"), "flops", limits)).flops / cost(DENSE).flops
    )


def test_protected_blocks_keep_all_and_multiples_hold() -> None:
    chance = np.random.default_rng(4)
    for _ in range(50):
        spec = to_target(TOY, preferences(chance), 0.75, "flops", Limits((2,), multiple=8))
        assert [spec.widths[PLACES[f"{family}/02"]] for family in ("blocks", "toy_heads", "hidden")] == [1, 4, 48]
        assert all(width % 8 == 0 for width in spec.family("hidden"))
    with pytest.raises(MedcoreError, match=r"hidden channel counts \[16, 24, 48\] are no multiples of 7"):
        to_target(TOY, np.ones(ALL), 0.7, limits=Limits(multiple=7))
    with pytest.raises(MedcoreError, match="protected names block 4"):
        to_target(TOY, np.ones(ALL), 0.7, limits=Limits((4,)))


def test_a_pruned_model_never_grows() -> None:
    chance = np.random.default_rng(5)
    for seed in range(30):
        current = random_spec(seed)
        full = cost(current).flops / cost(DENSE).flops
        fraction = float(chance.uniform(smallest_fraction(TOY, "flops"), full))
        spec = to_target(TOY, preferences(chance), fraction, "flops", Limits(current=current))
        assert (np.array(spec.widths) <= current.widths).all()
        assert cost(spec).flops / cost(DENSE).flops == pytest.approx(fraction, abs=0.03)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8, 1.0])
def test_uniform_budgets_keep_elective_families_whole(fraction: float) -> None:
    spec = uniform_to_target(TOY, fraction, "flops")
    assert spec.family("blocks") == (1, 1, 1)
    shares = [width / site.width for site, width in zip(TOY.sites[3:], spec.widths[3:], strict=True)]
    # the same share everywhere, to one group of the narrowest site
    assert max(shares) - min(shares) <= 0.5 + 1e-9
    assert cost(spec).flops / cost(DENSE).flops == pytest.approx(fraction, abs=0.002)


def test_uniform_shares_count_from_each_sites_own_width() -> None:
    spec = uniform(TOY, {"toy_heads": 0.5, "hidden": 0.25, "stem": 0.0})
    assert spec.widths == (1, 1, 1, 1, 2, 2, 0, 6, 12, 4)
    assert uniform(TOY, {"blocks": 0.4}).widths == (0, 0, 0, 0, 0, 0, 10, 0, 0, 0)


def test_the_rule_meets_the_totals_of_the_families_that_it_cuts() -> None:
    chance = np.random.default_rng(6)
    for _ in range(50):
        sensitivity = chance.lognormal(size=4)
        spec = rule(TOY, SPARSITY, sensitivity)
        assert spec.family("blocks") == (1, 1, 1)
        assert 9 - sum(spec.family("toy_heads")) == 5 and 10 - spec.family("stem")[0] == 4
        assert 88 - sum(spec.family("hidden")) == 62
        assert min(spec.family("toy_heads")) >= 1 and spec.family("stem")[0] >= 2
        assert all(kept >= width * 0.05 - 1 for kept, width in zip(spec.family("hidden"), TOY.hidden, strict=True))
    assert rule(TOY, {}, np.ones(4)) == DENSE
    # a block whose weight is far above the others' goes first
    assert rule(TOY, {"blocks": 1 / 3}, [1, 9, 0.1, 9]).family("blocks") == (1, 0, 1)


def test_equal_sensitivity_takes_from_sites_by_their_width() -> None:
    spec = rule(TOY, {"hidden": 0.5}, np.ones(4))
    assert spec.family("hidden") == (12, 24, 8)


@pytest.mark.parametrize("fraction", [0.9, 0.6, 0.4])
def test_the_rule_meets_a_target_from_below(fraction: float) -> None:
    for protected in (None, (1,)):
        spec = rule_to_target(TOY, fraction, np.array([1.0, 0.5, 2.0, 4.0]), "flops", protected)
        reached = cost(spec).flops / cost(DENSE).flops
        assert fraction - 0.1 <= reached <= fraction and spec.family("blocks") == (1, 1, 1)
    with pytest.raises(MedcoreError, match="cannot reach"):
        rule_to_target(TOY, 0.1, np.ones(4), "flops")


@pytest.mark.parametrize("name", ALLOCATORS.names())
def test_every_allocator_takes_the_toy(name: str) -> None:
    curves = tuple((1 - np.arange(width + 1) / width) ** 2 for width in DENSE.widths)
    request = Request(TOY, np.array([1.0, 0.5, 2.0, 4.0]), SPARSITY, 0.5, "flops", Limits((1,)), curves)
    spec = ALLOCATORS[name](request)
    assert [spec.widths[PLACES[f"{family}/01"]] for family in ("blocks", "toy_heads", "hidden")] == [1, 2, 24]
    if name not in BY_SPARSITY:
        assert cost(spec).flops / cost(DENSE).flops == pytest.approx(0.5, abs=0.002)


def test_values_of_blocks_are_spread_over_their_sites() -> None:
    assert per_site(TOY, [9.0, 1.0, 2.0, 3.0]).tolist() == [1, 2, 3, 1, 2, 3, 9, 1, 2, 3]


STAGES = Family("stages", "Stages", "stage", stage="stages", elective=True)


@dataclasses.dataclass(frozen=True)
class Staged(Toy):
    """The toy with a group around its last two blocks; for budgets only."""

    encoder_families: ClassVar[tuple[Family, ...]] = (STAGES, *Toy.encoder_families)

    @property
    def encoder_sites(self) -> tuple[Site, ...]:  # type: ignore[override]
        first = dataclasses.replace(TOY.sites[0], family=STAGES, block=2)
        blocks = [
            dataclasses.replace(site, within="stages/02" if site.block > 1 else None)
            if site.family.name == "blocks"
            else site
            for site in TOY.sites
        ]
        return (first, *blocks)


def test_groups_may_hold_groups_that_hold_sites() -> None:
    arch = Staged()
    assert ModelSpec(arch, (0, *DENSE.widths)).widths == (0, 1, 0, 0, 2, 0, 0, 10, 24, 0, 0)
    costs, chance = group_costs(arch, "flops"), np.random.default_rng(7)
    for _ in range(200):
        shares = chance.lognormal(sigma=2, size=ALL + 1)
        fraction = float(chance.uniform(costs.fixed / costs.dense, 1))
        spec = to_target(arch, shares, fraction, "flops")
        assert abs(cost(spec).flops - fraction * costs.dense) <= 0.5 * costs.groups.max() * (1 + 1e-9)
        if not spec.widths[0]:
            assert spec.family("blocks")[1:] == (0, 0) and spec.family("hidden")[1:] == (0, 0)
