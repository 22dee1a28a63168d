"""Which member of the front is repeated next."""

from __future__ import annotations

from typing import Any

import numpy as np

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.driver.finalists import next_to_repeat
from search.trials.ledger import IssuedTrial

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


def issued(number: int, **fields: Any) -> IssuedTrial:
    return IssuedTrial(f"t{number}", number, number, fields.pop("origin", "sampled"), {}, **fields)


def done(trial: IssuedTrial, cost: float, quality: float, **metrics: float) -> TrialRow:
    fields = {"trial_id": trial.trial_id, "number": trial.number, "seed": 0, "origin": trial.origin, "params": {}}
    return TrialRow.done(fields, metrics={"cost": cost, "quality": quality, **metrics}, repeats=trial.repeats)


def names(trials: list[IssuedTrial], rows: list[TrialRow], count: int) -> list[str]:
    """The next trials to repeat, each of which runs and has not ended."""
    found = []
    for number in range(100, 100 + count):
        chosen = next_to_repeat(trials, rows, OBJECTIVES)
        assert chosen is not None
        found.append(chosen.trial_id)
        trials = [*trials, issued(number, repeats=chosen.trial_id)]
    return found


def test_members_of_the_front_take_turns_and_others_get_none() -> None:
    trials = [issued(0), issued(1), issued(2), issued(3)]
    rows = [done(trials[0], 1, 0.5), done(trials[1], 2, 0.7), done(trials[2], 2, 0.6), done(trials[3], 3, 0.9)]
    assert names(trials, rows, 6) == ["t1", "t0", "t3", "t1", "t0", "t3"]


def test_few_repeats_spread_over_a_large_front() -> None:
    """The dense model, which is the expensive end, the knee, the cheap end, and then the middles of what is left."""
    trials = [issued(0, origin="dense"), *(issued(number) for number in range(1, 12))]
    quality = {0: 0.87, **{number: 0.5 + 0.3 * (1 - 0.5 ** (number - 1)) for number in range(1, 12)}}
    rows = [done(trial, 20 if trial.number == 0 else trial.number, quality[trial.number]) for trial in trials]
    chosen = names(trials, rows, 12)
    assert sorted(chosen) == sorted(trial.trial_id for trial in trials)
    assert chosen[:4] == ["t0", "t5", "t1", "t8"]
    places = sorted(int(name[1:]) or 12 for name in chosen[:6])
    assert max(np.diff([0, *places])) <= 4


def test_the_order_is_that_of_the_first_objective() -> None:
    """With three objectives, members lie between two others by the first one."""
    three = (*OBJECTIVES, Objective("speed", "max"))
    trials = [issued(number) for number in range(6)]
    rows = [done(trial, trial.number, 0.5, speed=float(trial.number)) for trial in trials]
    knee = next_to_repeat(trials, rows, three)
    assert knee is not None and knee.trial_id == "t2"  # the cheaper one of the two in the middle
    again = next_to_repeat([*trials, issued(9, repeats="t2")], rows, three)
    assert again is not None and again.trial_id == "t5"


def test_the_mean_decides_who_is_a_member() -> None:
    """By its first run t1 is on the front; its repeat takes it off and brings t2 on."""
    trials = [issued(0), issued(1), issued(2), issued(3, repeats="t1")]
    rows = [done(trials[0], 1, 0.5), done(trials[1], 2, 0.7), done(trials[2], 2, 0.6)]
    assert set(names(trials[:3], rows, 2)) == {"t0", "t1"}
    assert set(names(trials, [*rows, done(trials[3], 2, 0.1)], 4)) == {"t0", "t2"}


def test_the_dense_model_is_always_repeated() -> None:
    trials = [issued(0, origin="dense"), issued(1)]
    rows = [done(trials[0], 9, 0.5), done(trials[1], 1, 0.6)]
    assert names(trials, rows, 3) == ["t0", "t1", "t0"]


def test_without_a_trial_that_is_done_nothing_is_repeated() -> None:
    trials = [issued(0)]
    failed = TrialRow(trial_id="t0", number=0, status="failed")
    assert next_to_repeat(trials, [failed], OBJECTIVES) is None
    assert next_to_repeat([], [], OBJECTIVES) is None
