"""What a trial samples around knapsack budgets, and the budgets that are tried first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import smallest_fraction
from medcore.budgets.prices import linear_prices
from medcore.errors import ConfigError
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.scoring.profile import Profile
from search.base.config import Config
from search.base.sections.dimensions import Fixed
from search.base.sections.search import WarmStarts
from search.commands.sections import trial_settings
from search.study.inputs import Shared
from search.trials.sampling.preferences import preferences
from search.trials.sampling.reach import division, point_count, reachable_starts, share_limits, smallest_knapsack
from search.trials.sampling.space import (
    EXACT,
    Domain,
    Params,
    decode,
    domain_of,
    encode_fraction,
    residual_names,
    sample,
)
from search.trials.sampling.warm import warm_starts
from tests.support.helpers import TINY
from tests.support.scoring_samples import random_table
from tests.support.studies.old_config import old_config

PLAIN = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
STARTS = {"knapsack": [0.6, 0.3], "uniform": [0.5]}
NAMES = ["knapsack 0.6", "knapsack 0.3", "uniform 0.5"]
GENERATOR = np.random.default_rng(5)
#: Convex curves that end at 0, of very different heights.
CURVES = tuple(
    np.append(np.cumsum(np.sort(GENERATOR.lognormal(GENERATOR.normal(), 1.0, width)))[::-1], 0.0)
    for width in TINY.dense_widths
)
PROFILE = Profile(tuple(np.arange(width) for width in TINY.dense_widths), CURVES)
NEUTRAL = {"lean": 0.0, "fraction": {"low": 0.2, "high": 1.0}}


def config_of(**space: Any) -> Config:
    return Config.model_validate(PLAIN | {"search": {"space": NEUTRAL | space, "warm_starts": STARTS}})


def domain(**space: Any) -> Domain:
    return Domain(trial_settings(config_of(**space)), TINY, ("one",), np.ones(TINY.depth), CURVES)


def drawn(where: Domain, count: int) -> list[Params]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [sample(study.ask(), where) for _ in range(count)]


def share(spec: ModelSpec) -> float:
    return cost(spec).flops_paper / cost(ModelSpec.dense(TINY)).flops_paper


def test_without_a_shape_of_its_own_a_trial_is_a_pure_knapsack() -> None:
    where = domain()
    for params in drawn(where, 8):
        assert decode(params, where).spec == knapsack_budget(TINY, CURVES, params["fraction"])
    params = encode_fraction(0.4, where)
    assert params["fraction"] == 0.4 and decode(params, where).spec == knapsack_budget(TINY, CURVES, 0.4)
    assert decode(params, where).lr is None  # the section `recovery` decides


def test_a_sampled_shape_multiplies_the_curves() -> None:
    """The same budget from curves that are multiplied by hand."""
    where = domain(lean={"low": -2, "high": 2}, slope_heads={"low": -2, "high": 2}, exponent=0.5)
    differing = 0
    for params in drawn(where, 12):
        found = decode(params, where).spec
        factors = preferences(params, TINY, np.ones(TINY.depth))
        multiplied = tuple(factor * np.sqrt(curve) for factor, curve in zip(factors, CURVES, strict=True))
        assert found == knapsack_budget(TINY, multiplied, params["fraction"])
        assert share(found) <= params["fraction"]
        differing += found != knapsack_budget(TINY, CURVES, params["fraction"])
    assert differing > 3


def test_a_fraction_out_of_reach_counts_as_the_least() -> None:
    where = domain(fraction=0.01)
    (params,) = drawn(where, 1)
    assert sum(decode(params, where).spec.widths) == 0


def test_residuals_are_drawn_unless_the_spread_is_fixed_at_zero() -> None:
    names = set(residual_names(TINY))
    for spread, expected in ((0.0, False), (0.5, True), ({"low": 0, "high": 1}, True)):
        where = domain(spread=spread)
        (params,) = drawn(where, 1)
        assert names.isdisjoint(params) != expected and (names <= params.keys()) == expected
        assert (names <= encode_fraction(0.5, where).keys()) == expected


def test_curves_are_needed_and_missed_with_a_clear_line() -> None:
    (params,) = drawn(domain(), 1)
    with pytest.raises(ConfigError, match="curves need the second-order profile"):
        decode(params, replace(domain(), curves=None))


def shared_of(config: Config) -> Shared:
    nothing: Any = None
    return Shared(
        settings=trial_settings(config),
        arch=TINY,
        table=replace(random_table(), profile=PROFILE),
        calibration=nothing,
        search_images=nothing,
        search_logits=nothing,
        recovery_images=nothing,
        teacher=nothing,
        streams=None,
    )


def test_the_first_trials_are_the_dense_model_then_knapsacks_then_uniform_budgets() -> None:
    shared = shared_of(config_of())
    starts = warm_starts(shared)
    assert [start["origin"] for start in starts] == ["dense", "knapsack 0.6", "knapsack 0.3", "uniform 0.5"]
    assert [start["teaches"] for start in starts] == [False, True, True, False]
    assert [EXACT in start["params"] for start in starts] == [True, False, False, True]
    where = Domain(shared.settings, TINY, shared.datasets, np.ones(TINY.depth), CURVES)
    specs = [decode(start["params"], where).spec for start in starts]
    assert specs[0].is_dense and specs[1] == knapsack_budget(TINY, CURVES, 0.6)
    assert share(specs[3]) == pytest.approx(0.5, abs=0.03)


def test_a_space_around_uniform_budgets_learns_from_them_and_has_no_knapsack() -> None:
    values = old_config()
    values["search"]["warm_starts"] |= {"uniform": [0.5], "rule": [0.6], "knapsack": [0.3]}
    starts = warm_starts(shared_of(Config.model_validate(values)))
    assert [start["origin"] for start in starts] == ["dense", "uniform 0.5", "rule 0.6"]
    assert all(start["teaches"] for start in starts)
    values["search"]["space"]["spread"] = 0.0  # then no parameters describe them
    assert not any(start["teaches"] for start in warm_starts(shared_of(Config.model_validate(values))))


def test_first_budgets_must_be_within_reach_if_they_are_tried() -> None:
    low = config_of().search.model_copy(update={"warm_starts": WarmStarts(knapsack=(0.3, 0.1), uniform=())})
    with pytest.raises(ConfigError, match=r"search\.warm_starts\.knapsack: 0\.1 of the flops_paper is out of reach"):
        reachable_starts(low, ModelSpec.dense(TINY))
    shares = low.space.model_copy(update={"shape": Fixed("shares")})
    assert reachable_starts(low.model_copy(update={"space": shares}), ModelSpec.dense(TINY)).names == ["dense"]


def test_default_budgets_out_of_reach_are_skipped_with_a_note() -> None:
    values = config_of().search.model_copy(update={"warm_starts": WarmStarts()})
    config, dense = config_of().model_copy(update={"search": values}), ModelSpec.dense(TINY)
    least = {
        "knapsack": smallest_knapsack(dense, linear_prices(TINY)),
        "uniform": smallest_fraction(TINY, "flops_paper"),
    }
    shares = {kind: getattr(WarmStarts(), kind) for kind in least}
    kept = [f"{kind} {share:g}" for kind in least for share in shares[kind] if share >= least[kind]]
    starts = reachable_starts(config.search, dense)
    assert starts.names == ["dense", *kept] and "knapsack 0.3" in kept and "knapsack 0.05" not in kept
    assert [start["origin"] for start in warm_starts(shared_of(config))] == starts.names
    assert starts.notes[0] == (
        "search.warm_starts: skipped knapsack 0.05, 0.06, 0.08, 0.1, 0.15 of the flops_paper, because "
        f"{least['knapsack']:.4f} of tiny is left when every group is gone"
    )


@pytest.mark.parametrize("protected", [0, 2, {"choices": [1, 2]}])
@pytest.mark.parametrize("shape", ["curves", "shares", {"choices": ["curves", "shares"]}])
@pytest.mark.parametrize("start", [ModelSpec.dense(TINY), knapsack_budget(TINY, CURVES, 0.8)], ids=["dense", "pruned"])
def test_sampled_shares_end_where_smaller_ones_change_nothing(shape: Any, protected: Any, start: ModelSpec) -> None:
    config = config_of(shape=shape, protected_last=protected, fraction={"low": 0.01, "high": 1.0})
    where = replace(domain(), settings=trial_settings(config), start=None if start.is_dense else start)
    least, most = share_limits(config.search, start)
    assert most == pytest.approx(share(start))
    shares = [
        share(
            decode(
                {**encode_fraction(0.6, where), "shape": kind, "protected_last": count, "fraction": 0.01}, where
            ).spec
        )
        for kind in config.search.space.shape.values
        for count in config.search.space.protected_last.values
    ]
    assert least == pytest.approx(min(shares), abs=1e-9)
    params = encode_fraction(0.6, where) | {"fraction": least + 0.1}
    assert share(decode(params, where).spec) > least


def test_a_start_that_protected_blocks_put_out_of_reach_is_refused() -> None:
    search = config_of(protected_last=2).search
    with pytest.raises(ConfigError, match=r"search\.warm_starts\.knapsack: 0\.3 of the flops_paper is out of reach"):
        reachable_starts(search, ModelSpec.dense(TINY))
    assert (
        reachable_starts(config_of(protected_last={"choices": [0, 2]}).search, ModelSpec.dense(TINY)).names[1:] == NAMES
    )


def test_a_uniform_budget_outside_of_the_space_teaches_nothing() -> None:
    values = old_config()
    values["search"]["warm_starts"] |= {"dense": True, "uniform": [0.5, 0.7], "rule": []}
    values["search"]["space"]["fraction"] = {"low": 0.6, "high": 0.9}
    starts = warm_starts(shared_of(Config.model_validate(values)))
    assert {start["origin"]: start["teaches"] for start in starts} == {
        "dense": False,
        "uniform 0.5": False,
        "uniform 0.7": True,
    }


def test_starts_outside_of_the_space_are_tried_as_written_or_left_out_if_nobody_wrote_them() -> None:
    shares = {"low": 0.4, "high": 0.9}
    written = config_of(fraction=shares)
    assert reachable_starts(written.search, ModelSpec.dense(TINY)).names == ["dense", *NAMES]
    dense, *points = warm_starts(shared_of(written))
    assert [point["origin"] for point in points] == NAMES
    assert [point["teaches"] for point in points] == [True, False, False]
    where = domain_of(shared_of(written))
    for point, fraction in zip(points, (0.6, 0.3), strict=False):
        assert decode(point["params"], where).spec == knapsack_budget(TINY, CURVES, fraction)
    assert (EXACT in points[0]["params"], EXACT in points[1]["params"], EXACT in dense["params"]) == (False, True, True)
    search = written.search.model_copy(update={"warm_starts": WarmStarts(rule=())})
    starts = reachable_starts(search, ModelSpec.dense(TINY))
    assert starts.names == ["dense", "knapsack 0.5"]
    assert "search.warm_starts: skipped uniform 0.3, which search.space.fraction leaves out" in starts.notes


def test_the_points_of_a_space_are_counted() -> None:
    dense = ModelSpec.dense(TINY)

    def points(**space: Any) -> int | None:
        return point_count(config_of(**space).search, dense)

    assert points() is None and points(fraction=0.5, lr={"low": 1e-4, "high": 1e-3}) is None
    assert points(fraction=0.5) == 1 and points(fraction={"choices": [0.3, 0.5]}, rounds={"choices": [1, 2, 3]}) == 6
    assert points(fraction={"low": 0.001, "high": 0.01}) == 1  # all are the smallest budget
    assert points(fraction=0.5, slope_heads={"choices": [0, 1]}) == 2
    assert points(fraction=0.5, spread={"choices": [0, 1]}) is None  # free residuals
    assert points(fraction=0.5, mixture={"choices": [0.5, 1.0]}) is None  # one for each data set
    assert points(fraction=0.5, slope_decoder_channels={"low": -1, "high": 1}) == 1  # of a family that TINY lacks
    assert point_count(config_of(fraction={"low": 0.5, "high": 0.9}).search, knapsack_budget(TINY, CURVES, 0.4)) == 1


def test_trials_divide_up_into_starts_samples_and_repeats() -> None:
    search = config_of().search.model_copy(update={"trials": 48, "finalists": 0.2})
    assert division(search, ["dense", "knapsack 0.5"]) == (
        "48 trials: 2 starting points (dense, knapsack 0.5), then 37 sampled, then 9 that repeat members of the front"
    )
    averages = division(search, ["dense"], averages=True)
    assert averages.endswith("then 9 that repeat members of the front or average the weights of such runs")
    few = search.model_copy(update={"trials": 2, "finalists": 0.5})
    assert division(few, ["dense", "knapsack 0.5"]) == (
        "2 trials: 1 starting point (dense), then 1 that repeats members of the front; 1 starting point finds no trial"
    )
    alone = search.model_copy(update={"trials": 3, "finalists": 0.0})
    assert division(alone, []) == "3 trials: no starting points, then 3 sampled"


def test_the_schedule_and_the_rate_follow_the_sections() -> None:
    (params,) = drawn(domain(), 1)
    plan = decode(params, domain())
    assert (plan.order, plan.rounds, plan.rescore, plan.lr) == ("together", 1, False, None)
    where = domain(lr={"low": 1e-4, "high": 4e-4, "log": True})
    assert 1e-4 <= decode(drawn(where, 1)[0], where).lr <= 4e-4  # type: ignore[operator]
    assert encode_fraction(0.05, where)["lr"] == pytest.approx(where.settings.recovery.rate(0.05))
    assert encode_fraction(0.5, where)["lr"] == 1e-4
