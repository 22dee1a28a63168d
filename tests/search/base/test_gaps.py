"""Shares of the cost that halve the widest gap, and TPE for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from search.base.gaps import UNDESCRIBED, next_share
from search.base.samplers import SamplerSettings, make_sampler

LOW, HIGH = 0.05, 0.8


def shares(count: int, tried: Sequence[float] = (), log: bool = True) -> list[float]:
    """The next shares, each after those before it."""
    found: list[float] = []
    for _ in range(count):
        found.append(next_share([*tried, *found], LOW, HIGH, log))
    return found


@pytest.mark.parametrize("log", [True, False])
def test_shares_are_even_whenever_the_search_has_halved_all_gaps(log: bool) -> None:
    space = np.geomspace if log else np.linspace
    for count in (2, 3, 5, 9, 33):
        np.testing.assert_allclose(sorted(shares(count, log=log)), space(LOW, HIGH, count), rtol=1e-9)


def test_ends_come_first_and_then_cheap_gaps() -> None:
    np.testing.assert_allclose(shares(5), [0.05, 0.8, 0.2, 0.1, 0.4])
    np.testing.assert_allclose(shares(1, tried=[0.8, 0.3]), [0.05])


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_the_middle_of_the_widest_gap(seed: int) -> None:
    """Against a search over a fine grid for the place that is farthest from all shares, in logarithms."""
    rng = np.random.default_rng(seed)
    tried = [LOW, HIGH, *np.exp(rng.uniform(np.log(LOW), np.log(HIGH), size=9)), 0.01, 1.0]
    grid = np.linspace(np.log(LOW), np.log(HIGH), 20_001)
    distance = np.abs(grid[:, None] - np.log(tried)).min(axis=1)
    found = next_share(tried, LOW, HIGH, log=True)
    assert np.abs(np.log(found) - np.log(tried)).min() == pytest.approx(distance.max(), abs=1e-3)


def test_no_share_is_below_what_a_budget_can_meet() -> None:
    assert next_share([], 0.5, 0.5) == 0.5
    study = _study(8, reach=(0.3, 1.0))
    assert min(trial.params["fraction"] for trial in study.trials) == 0.3
    assert _study(3, reach=(0.9, 1.0)).trials[2].params["fraction"] == HIGH  # nothing is in reach


def test_a_trial_that_would_remove_nothing_counts_as_tried() -> None:
    assert [trial.params["fraction"] for trial in _study(2, reach=(0.0, HIGH)).trials] == pytest.approx([0.05, 0.2])


def test_an_end_that_rounding_has_moved_counts_as_tried() -> None:
    assert next_share([LOW * (1 - 1e-12), HIGH * (1 + 1e-12)], LOW, HIGH, log=True) == pytest.approx(0.2)


def test_a_budget_that_the_share_does_not_describe_leaves_its_gap() -> None:
    study = _study(2)
    uniform = _ask(study, 2)  # at 0.2
    uniform.set_user_attr(UNDESCRIBED, True)
    study.tell(uniform, (0.2, 0.2))
    assert _ask(study, 3).params["fraction"] == pytest.approx(0.2)


def test_trials_that_run_or_failed_have_tried_their_share() -> None:
    study = _study(2)
    for state in (None, TrialState.FAIL):
        trial = _ask(study, 9)
        if state is not None:
            study.tell(trial, state=state)
    assert [trial.params["fraction"] for trial in study.trials] == pytest.approx([0.05, 0.8, 0.2, 0.1])


def test_tpe_draws_the_other_dimensions() -> None:
    """Where a small rate is good for both objectives, later rates are small; shares stay even."""
    study = _study(33, value=lambda share, rate: (rate, share * rate))
    rates = [trial.params["lr"] for trial in study.trials]
    assert np.mean(rates[16:]) < 0.7 * np.mean(rates[:10])
    found = sorted(trial.params["fraction"] for trial in study.trials)
    np.testing.assert_allclose(found, np.geomspace(LOW, HIGH, 33), rtol=1e-9)


def test_shares_that_are_choices_come_from_tpe() -> None:
    study = _study(0)
    study.sampler = make_sampler(SamplerSettings("gaps"), 0, 8)
    for _ in range(12):
        trial = study.ask()
        share = trial.suggest_categorical("fraction", (0.1, 0.2))
        study.tell(trial, (share, share))
    assert {trial.params["fraction"] for trial in study.trials} == {0.1, 0.2}


def test_no_side_is_smaller_than_the_share_and_a_trial_has_tried_what_it_met() -> None:
    """At side 48 the unpruned model has half of the cost, at side 32 a fifth; at 64 a budget can meet a tenth."""
    sides = {64: (0.1, 1.0), 48: (0.06, 0.5), 32: (0.01, 0.2)}
    settings = SamplerSettings("gaps", seed=3, sides=sides)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(33):
        study.sampler = make_sampler(settings, number, 40)
        trial = study.ask()
        share = trial.suggest_float("fraction", LOW, HIGH, log=True)
        side = trial.suggest_categorical("side", (64, 48, 32))
        assert sides[side][0] <= share < sides[side][1]
        study.tell(trial, (share, side))
    drawn = [(trial.params["fraction"], trial.params["side"]) for trial in study.trials]
    assert {side for _, side in drawn} == set(sides)
    assert {side for share, side in drawn if 0.2 <= share < 0.5} == {48, 64}
    np.testing.assert_allclose(sorted(share for share, _ in drawn), np.geomspace(LOW, HIGH, 33), rtol=1e-9)
    # a starting point that asked for more than its side has leaves the gap open
    study = optuna.create_study(directions=["minimize", "minimize"])
    for share, side in ((LOW, 32), (0.7, 32), (HIGH, 64)):
        study.enqueue_trial({"fraction": share, "side": side})
        _sided(study, settings)
    assert _sided(study, settings).params["fraction"] == pytest.approx(0.1)  # between 0.05 and 0.2


def _sided(study: optuna.Study, settings: SamplerSettings) -> optuna.Trial:
    study.sampler = make_sampler(settings, 0, 40)
    trial = study.ask()
    trial.suggest_float("fraction", LOW, HIGH, log=True)
    trial.suggest_categorical("side", (64, 48, 32))
    study.tell(trial, (1.0, 1.0))
    return trial


def _study(
    count: int, reach: tuple[float, float] = (0.0, 1.0), value: Any = lambda share, rate: (share, rate)
) -> optuna.Study:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(count):
        trial = _ask(study, number, reach)
        study.tell(trial, value(trial.params["fraction"], trial.params["lr"]))
    return study


def _ask(study: optuna.Study, number: int, reach: tuple[float, float] = (0.0, 1.0)) -> optuna.Trial:
    study.sampler = make_sampler(SamplerSettings("gaps", seed=3, reach=reach), number, 40)
    trial = study.ask()
    trial.suggest_float("fraction", LOW, HIGH, log=True)
    trial.suggest_float("lr", 0.0, 1.0)
    return trial
