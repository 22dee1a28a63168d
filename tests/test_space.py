"""What a trial samples: ranges are kept, hand-made budgets survive the way into parameters and back."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from medcore.budgets import uniform_to_target
from medcore.cost import cost
from medcore.rule_target import rule_to_target
from medcore.spec import EncoderSpec
from medcore.targets import group_costs
from search.config import Config
from search.space import decode, encode_budget, residual_names, sample
from tests.helpers import TINY

DATASETS = ("one", "two")
CONFIG = Config.model_validate(
    {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
    | {"search": {"space": {"fraction": {"low": 0.2, "high": 1.0, "log": True}, "tau": 0.25}}}
)


def test_sampled_budgets_meet_their_fraction() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    costs = group_costs(TINY, "flops_paper")
    half_a_head = costs.heads.max() / costs.dense / 2
    for _ in range(50):
        params = sample(study.ask(), CONFIG, TINY, DATASETS)
        plan = decode(params, CONFIG, TINY, DATASETS)
        reached = cost(plan.spec).flops_paper / costs.dense
        assert reached == pytest.approx(params["fraction"], abs=half_a_head)
        assert set(residual_names(TINY)) <= params.keys()
        assert params["tau"] == 0.25
        assert sum((plan.weights.mixture or {}).values()) == pytest.approx(1)


@pytest.mark.parametrize("fraction", [0.4, 0.6])
def test_hand_made_budget_comes_back(fraction: float) -> None:
    sensitivity = np.random.default_rng(0).uniform(0.5, 2, TINY.depth)
    for spec in (uniform_to_target(TINY, fraction), rule_to_target(TINY, fraction, sensitivity, protected=())):
        params = encode_budget(spec, fraction, CONFIG, DATASETS)
        back = decode(params, CONFIG, TINY, DATASETS).spec
        assert np.abs(np.subtract(back.heads, spec.heads)).max() <= 1
        exact = params | {"budget": {"heads": list(spec.heads), "channels": list(spec.channels)}}
        assert decode(exact, CONFIG, TINY, DATASETS).spec == spec


def test_parameters_of_a_hand_made_budget_lie_in_the_space() -> None:
    spec = EncoderSpec(TINY, (3, 0, 1, 3), (48, 0, 2, 48))
    params = encode_budget(spec, 0.5, CONFIG, DATASETS)
    fixed = optuna.trial.FixedTrial(params)
    assert sample(fixed, CONFIG, TINY, DATASETS) == params
