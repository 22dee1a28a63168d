"""What a trial samples around uniform budgets: ranges are kept, hand-made budgets survive the way there and back.

The space is that of studies before second-order curves, whose sensitivities need Fisher information.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import optuna
import pytest

from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import group_costs, uniform_to_target
from medcore.models.cost import cost
from medcore.scoring.criteria import ScoringWeights
from search.base.config import Config
from search.commands.sections import trial_settings
from search.trials.ledger import IssuedTrial, read_issued, write_issued
from search.trials.sampling.space import EXACT, Domain, Params, decode, encode_budget, residual_names, sample
from tests.support.helpers import TINY, spec_of
from tests.support.studies.old_config import old_config

DATASETS = ("one", "two")
OLD = old_config()
OLD["search"]["space"] |= {"fraction": {"low": 0.2, "high": 1.0, "log": True}, "tau": 0.25}
CONFIG = Config.model_validate(OLD)
SENSITIVITY = np.array([4.0, 1.0, 2.0, 8.0])
DOMAIN = Domain(trial_settings(CONFIG), TINY, DATASETS, SENSITIVITY)
WEIGHTS = ScoringWeights(alpha={"heads": 0.3}, beta=0.2, mixture={"one": 3.0})


def domain(**space: object) -> Domain:
    values = CONFIG.model_dump()
    values["search"]["space"] |= space
    return Domain(trial_settings(Config.model_validate(values)), TINY, DATASETS, SENSITIVITY)


def drawn(where: Domain, count: int) -> list[Params]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [sample(study.ask(), where) for _ in range(count)]


def test_sampled_budgets_meet_their_fraction() -> None:
    costs = group_costs(TINY, "flops_paper")
    half_a_head = costs.groups.max() / costs.dense / 2
    for params in drawn(DOMAIN, 50):
        plan = decode(params, DOMAIN)
        reached = cost(plan.spec).flops_paper / costs.dense
        assert reached == pytest.approx(params["fraction"], abs=half_a_head)
        assert set(residual_names(TINY)) <= params.keys()
        assert params["tau"] == 0.25
        assert sum((plan.weights.mixture or {}).values()) == pytest.approx(1)
        assert (plan.order, plan.rounds, plan.rescore) == ("heads_first", 1, False)


def test_criterion_and_schedule_can_be_sampled() -> None:
    where = domain(
        criterion={"choices": ["medcore", "magnitude"]},
        blend={"low": 0.0, "high": 1.0},
        rounds={"choices": [1, 3]},
        rescore={"choices": [True, False]},
        order={"choices": ["heads_first", "together"]},
        rescore_per_dataset={"choices": [4, 8]},
        protected_last={"choices": [0, 1]},
        adaptive_alpha=False,
    )
    plans = [decode(params, where) for params in drawn(where, 40)]
    assert {plan.weights.criterion for plan in plans} == {"medcore", "magnitude"}
    assert {plan.rounds for plan in plans} == {1, 3}
    assert {plan.rescore for plan in plans} == {True, False}
    assert {plan.order for plan in plans} == {"heads_first", "together"}
    assert {plan.rescore_per_dataset for plan in plans} == {4, 8}
    assert any((plan.spec.family("heads")[-1], plan.spec.family("channels")[-1]) == (3, 48) for plan in plans)
    assert all(plan.weights.alpha["heads"] is not None for plan in plans)


def test_unreachable_fraction_counts_as_the_least() -> None:
    where = domain(fraction=0.01)
    (params,) = drawn(where, 1)
    assert decode(params, where).spec == spec_of(TINY, (0,) * 4, (0,) * 4)


def test_budgets_follow_the_sensitivity() -> None:
    flat = dict.fromkeys(("lean", "slope_heads", "slope_channels", "global_bonus", "spread", "follow_heads"), 0.0)
    where = domain(**flat, follow_channels=1.5, fraction=0.6)
    (params,) = drawn(where, 1)
    channels = decode(params, where).spec.family("channels")
    assert list(np.argsort(channels, kind="stable")) == list(np.argsort(SENSITIVITY))


@pytest.mark.parametrize("fraction", [0.4, 0.6])
def test_hand_made_budget_comes_back(fraction: float) -> None:
    sensitivity = np.random.default_rng(0).uniform(0.5, 2, TINY.depth)
    where = domain(spread={"low": 0.0, "high": 4.0})
    for spec in (uniform_to_target(TINY, fraction), rule_to_target(TINY, fraction, sensitivity, protected=())):
        params = encode_budget(spec, fraction, WEIGHTS, where)
        exact = decode(params, where)
        assert (exact.spec, exact.weights) == (spec, WEIGHTS)
        assert exact.lr == CONFIG.recovery.lr
        del params[EXACT]
        assert np.abs(np.subtract(decode(params, where).spec.family("heads"), spec.family("heads"))).max() <= 1


def test_parameters_of_a_hand_made_budget_lie_in_the_space() -> None:
    spec = spec_of(TINY, (3, 0, 1, 3), (48, 0, 2, 48))
    params = encode_budget(spec, 0.5, WEIGHTS, DOMAIN)
    del params[EXACT]
    fixed = optuna.trial.FixedTrial(params)
    assert sample(fixed, DOMAIN) == params
    assert params["mixture/one"] == 1 and params["mixture/two"] == 0.05  # the ends of its range


def test_an_issued_trial_of_an_older_version_means_the_same(tmp_path: Path) -> None:
    """Such versions wrote yes and no for booleans, and counts as fractions."""
    where = domain(rounds={"choices": [1, 2]}, rescore={"choices": [True, False]})
    for number, params in enumerate(drawn(where, 8)):
        words = {name: "yes" if params[name] else "no" for name in ("adaptive_alpha", "rescore")}
        old = params | words | {"rounds": float(params["rounds"]), "protected_last": 0.0}
        write_issued(tmp_path, IssuedTrial(f"t{number}", number, 1, "sampled", old))
        issued = read_issued(tmp_path, f"t{number}")
        assert decode(issued.params, where) == decode(params, where)
        fixed = optuna.trial.FixedTrial(issued.params)
        assert sample(fixed, where) == params
        optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=1.0)  # or it raises


def test_a_trial_that_was_issued_before_curves_existed_means_the_same() -> None:
    """A study may be resumed whose interrupted trials name no shape."""
    for params in drawn(DOMAIN, 4):
        old = {name: value for name, value in params.items() if name not in ("shape", "exponent")}
        assert len(old) == len(params) - 2 and decode(old, DOMAIN) == decode(params, DOMAIN)


def test_lean_is_fixed_where_it_treats_all_families_alike() -> None:
    alone = dataclasses.replace(DOMAIN, arch=dataclasses.replace(TINY, parts=("decoder",)))
    assert alone.dimensions["lean"].values == (0.0,) and len(DOMAIN.dimensions["lean"].values) == 2
