"""Budgets of three levels of groups, and schedules that cut, refit and recover them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import METRICS, Limits, group_costs
from medcore.budgets.rule import rule
from medcore.budgets.targets import to_target
from medcore.data.load import ImageSet
from medcore.models.cost import cost
from medcore.models.masks import select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import build_profile
from medcore.training.recovery import RecoverySettings
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings
from medcore.training.schedule import Inputs, Schedule, run_phases, start_of
from medcore.training.teacher import compute_teacher
from tests.support.scoring_samples import discs
from tests.support.tiny_vit import DENSE, LITTLE, PLACES, little_model

#: Cost of the dearest group of the sites that no group holds others in.
FAMILIES = ("heads", "channels", "mbconv", "merges")


def is_sound(spec: ModelSpec) -> bool:
    """Whether no site within a group that is gone keeps anything."""
    gone = {site.name for site, width in zip(LITTLE.sites, spec.widths, strict=True) if not width}
    return all(not width or site.within not in gone for site, width in zip(LITTLE.sites, spec.widths, strict=True))


def curves(seed: int, blocks: bool) -> PerSite:
    """Convex losses; those of blocks and interiors are infinite, as in a profile, or small."""
    chance = np.random.default_rng(seed)
    found = []
    for site in LITTLE.sites:
        if site.family.elective:
            found.append(np.array([float(chance.lognormal()) if blocks else np.inf, 0.0]))
        else:
            found.append(np.append(np.cumsum(np.sort(chance.lognormal(size=site.width)))[::-1], 0.0))
    return tuple(found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_to_target_meets_costs_with_nested_groups(seed: int, metric: str) -> None:
    costs, chance = group_costs(LITTLE, metric), np.random.default_rng(seed)
    dearest = max(costs.groups[number] for name, number in PLACES.items() if name.split("/")[0] in FAMILIES)
    for _ in range(20):
        fraction = float(chance.uniform(costs.fixed / costs.dense, 1))
        spec = to_target(LITTLE, chance.lognormal(sigma=2, size=len(LITTLE.sites)), fraction, metric)
        assert is_sound(spec)
        assert abs(fraction * costs.dense - getattr(cost(spec), metric)) <= dearest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blocks", [True, False])
def test_the_knapsack_stays_below_its_limit(seed: int, blocks: bool) -> None:
    for fraction in (0.35, 0.6, 0.9):
        spec = knapsack_budget(LITTLE, curves(seed, blocks), fraction, "flops", Limits())
        assert is_sound(spec) and cost(spec).flops <= fraction * cost(DENSE).flops
        if not blocks:
            assert set(spec.family("blocks")) | set(spec.family("interiors")) == {1}


def test_every_allocator_gives_a_sound_budget() -> None:
    sensitivity = np.random.default_rng(0).lognormal(size=len(LITTLE.blocks))
    sparsity = {"blocks": 0.0, "interiors": 0.0, "heads": 0.3, "channels": 0.5, "mbconv": 0.4, "merges": 0.3}
    for name in ALLOCATORS.names():
        request = Request(
            LITTLE,
            sensitivity,
            sparsity,
            fraction=0.6,
            metric="flops",
            limits=Limits(current=DENSE),
            curves=curves(1, blocks=False),
        )
        spec = ALLOCATORS[name](request)
        assert is_sound(spec) and not spec.is_dense, name


def test_the_rule_takes_the_blocks_of_least_sensitivity() -> None:
    sensitivity = np.array([5.0, 1, 9, 2, 9, 4, 3, 8, 9, 7])
    spec = rule(LITTLE, {"blocks": 3 / 7}, sensitivity)
    # blocks 1, 3 and 6; 2, 4 and 8 are merges
    assert spec.family("blocks") == (1, 0, 0, 1, 0, 1, 1) and spec.family("heads") == (0, 4, 0, 4, 3)
    spec = rule(LITTLE, {"interiors": 2 / 5}, sensitivity, Limits(protected=(3,)))
    assert spec.family("interiors") == (1, 0, 0, 1, 1) and set(spec.family("blocks")) == {1}


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return discs(6, size=32)


def test_a_schedule_cuts_refits_and_recovers(images: ImageSet) -> None:
    model = little_model(3)
    settings = RefitSettings(images=6, batch_size=3)
    inputs = Inputs(images, compute_teacher(model, images), record_streams(model, images, settings))
    profile = build_profile(model, profile_sums(model, images, range(6), range(3), 0))
    budget = knapsack_budget(LITTLE, profile.curves, 0.5, "flops", Limits())
    # and a block and an interior go
    widths = list(budget.widths)
    widths[PLACES["blocks/07"]] = widths[PLACES["interiors/05"]] = 0
    target = ModelSpec(LITTLE, tuple(widths))
    recovery = {family.name: RecoverySettings(steps=2, lr=1e-3, batch_size=2) for family in LITTLE.families}
    schedule = Schedule((target,), recovery, "together", refit=settings)
    ends = list(run_phases(schedule, start_of(model, profile.scores()), inputs, 5))
    end = ends[-1].state.model
    assert end.spec == target and not end.training
    assert [kept.tolist() for kept in ends[-1].state.kept] == [
        mask.tolist() for mask in select(profile.scores(), target)
    ]
    logs = [each.log for each in ends if each.log is not None]
    assert logs and all(np.isfinite(log.losses).all() and log.stopped is None for log in logs)
    counts = [module.num_batches_tracked for module in end.modules() if isinstance(module, nn.BatchNorm2d)]
    assert counts and all(count == 7 for count in counts)
    with torch.no_grad():
        assert end.segment(images.tensor(), images.box_tensor()).isfinite().all()
