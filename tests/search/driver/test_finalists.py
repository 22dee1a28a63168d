"""Which member of the front is repeated next."""

from __future__ import annotations

from typing import Any

import numpy as np

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.driver.finalists import WAIT, Finalist, next_finalist, next_to_repeat, to_average
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


def play(trials: list[IssuedTrial], rows: list[TrialRow], count: int) -> list[IssuedTrial]:
    """The finalists of a search with one worker, each of which is done as good as its first run."""
    known, values = list(trials), {row.trial_id: row.metrics for row in rows}
    ended = list(rows)
    for left in range(count, 0, -1):
        found = next_finalist(known, ended, OBJECTIVES, left)
        assert isinstance(found, Finalist)
        trial = issued(len(known), origin=found.origin, repeats=found.repeats, averages=found.averages)
        known.append(trial)
        ended.append(done(trial, **values[found.first.trial_id]))
    return known[len(trials) :]


def test_half_of_the_finalists_repeat_and_half_average() -> None:
    trials = [issued(number) for number in range(6)]
    rows = [done(trial, trial.number, 0.5 + trial.number / 10) for trial in trials]
    found = play(trials, rows, 8)
    assert [trial.repeats is None for trial in found] == [False] * 4 + [True] * 4
    assert [trial.averages for trial in found[4:]] == [(trial.repeats, trial.trial_id) for trial in found[:4]]
    assert [trial.origin for trial in found[4:]] == [f"average of {trial.repeats}" for trial in found[:4]]
    odd = play(trials, rows, 5)
    assert [trial.repeats is None for trial in odd] == [False] * 2 + [True] * 2 + [False]
    assert [trial.repeats is None for trial in play(trials, rows, 1)] == [False]


def test_an_average_has_all_runs_of_its_member() -> None:
    trials = [issued(0), issued(1)]
    rows = [done(trials[0], 1, 0.5), done(trials[1], 2, 0.1)]
    found = play(trials, rows, 4)
    assert [trial.repeats for trial in found] == ["t0", "t0", "t0", None]
    assert found[3].averages == ("t0", "t2", "t3", "t4")


def test_an_average_waits_for_its_runs_and_leaves_out_those_that_failed() -> None:
    trials = [issued(0), issued(1), issued(2, repeats="t0"), issued(3, repeats="t0"), issued(4, repeats="t1")]
    rows = [done(trials[0], 1, 0.5), done(trials[1], 2, 0.6)]
    assert next_finalist(trials, rows, OBJECTIVES, 2) == WAIT
    failed = TrialRow(trial_id="t2", number=2, status="failed", repeats="t0")
    rows += [failed, done(trials[4], 2, 0.6)]
    ready = Finalist(trials[1], ("t1", "t4"))
    assert next_finalist(trials, rows, OBJECTIVES, 2) == ready
    assert [runs.ended for runs in to_average(trials, rows)] == [False, True]
    rows += [done(trials[3], 1, 0.4)]
    assert next_finalist(trials, rows, OBJECTIVES, 2) == Finalist(trials[0], ("t0", "t3"))
    # nothing is left to average if a second run failed
    rows[-1] = TrialRow(trial_id="t3", number=3, status="failed", repeats="t0")
    assert [runs.first.trial_id for runs in to_average(trials, rows)] == ["t1"]


def test_runs_with_scores_of_their_own_are_repeated_only() -> None:
    for params, expected in (({"rescore": True, "rounds": 2}, []), ({"rescore": True, "rounds": 1}, [("t0", "t1")])):
        trials = [IssuedTrial("t0", 0, 0, "sampled", params), issued(1, repeats="t0")]
        rows = [done(trials[0], 1, 0.5), done(trials[1], 1, 0.5)]
        assert [runs.done for runs in to_average(trials, rows)] == expected


def test_runs_whose_weights_are_gone_are_not_averaged() -> None:
    trials = [issued(0), issued(1, repeats="t0"), issued(2, repeats="t0")]
    rows = [done(trial, 1, 0.5) for trial in trials]
    assert [runs.done for runs in to_average(trials, rows, {"t1"})] == [("t0", "t2")]
    assert to_average(trials, rows, {"t0", "t1"}) == []


def test_an_average_takes_members_off_the_front_and_is_not_repeated() -> None:
    trials = [issued(0), issued(1), issued(2, averages=("t0",), origin="average of t0"), issued(3)]
    rows = [done(trials[0], 1, 0.5), done(trials[1], 2, 0.6), done(trials[2], 1, 0.9), done(trials[3], 3, 0.95)]
    assert names(trials, rows, 2) == ["t3", "t3"]
    assert next_to_repeat(trials[:3], rows[:3], OBJECTIVES) is None
