"""How long a search takes, against a sum over single trials."""

from __future__ import annotations

import dataclasses

import pytest

from search.base.schedulers import HALVING, NONE
from search.commands.before.estimate import Amounts, StepTimes, estimate, unfinished
from search.commands.before.measure import cpu_seconds

TIMES = StepTimes(answer=0.5, profile=2.0, fisher=3.0, refit=4.0, refit_image=0.25, step=1.5, evaluation=0.125)
AMOUNTS = Amounts(
    calibration=40,
    recovery=100,
    search=16,
    looked=8,
    profiled=True,
    refit_images=64,
    steps=30,
    whole=5,
    sampled=18,
    scheduler=HALVING,
    reduction=3,
    at_once=2,
)


def test_before_the_first_trial() -> None:
    found = estimate(TIMES, AMOUNTS)
    # 40 images for scores, of which 32 take a backward pass for the profile; 100 answers; then logits and streams
    jobs = 40 * 3.0 + 32 * 2.0 + 8 * 0.5 + 100 * 0.5
    assert found.before == pytest.approx(jobs / 2 + (16 + 40) * 0.5)
    plain = dataclasses.replace(AMOUNTS, profiled=False, refit_images=0)
    assert estimate(dataclasses.replace(TIMES, fisher=0.0), plain).before == pytest.approx(100 * 0.5 / 2 + 16 * 0.5)


def test_trials_one_by_one_with_halving() -> None:
    """Of 18 sampled trials 6 go on after the first fidelity, and 2 of these after the second."""
    seconds = 0.0
    for last in [3] * 5 + [1] * 12 + [2] * 4 + [3] * 2:
        seconds += 4.0 + 40 * 0.25 + 8 * 0.125
        seconds += (10 * 1.5 + 8 * 0.125) if last > 1 else 0
        seconds += (20 * 1.5 + 16 * 0.125) if last > 2 else 0
    found = estimate(TIMES, AMOUNTS)
    assert found.trials == pytest.approx(seconds / 2) and found.total == found.before + found.trials
    assert found.trial == pytest.approx(14 + 30 * 1.5 + 2 * 8 * 0.125 + 16 * 0.125)


def test_without_a_scheduler_all_trials_run_to_their_end() -> None:
    found = estimate(TIMES, dataclasses.replace(AMOUNTS, scheduler=NONE, at_once=1))
    assert found.trial == pytest.approx(14 + 30 * 1.5 + 16 * 0.125) and found.trials == pytest.approx(23 * found.trial)


def test_what_is_left_of_a_search() -> None:
    kinds = ["start"] * 4 + ["sampled"] * 5 + ["repeat"] * 2
    for finished in range(13):
        left = kinds[finished:]
        assert unfinished((4, 5, 2), finished) == tuple(map(left.count, ("start", "sampled", "repeat")))
    # scores, profile and answers are kept; the rest before the trials is computed at every start
    found = estimate(TIMES, dataclasses.replace(AMOUNTS, prepared=True))
    assert found.before == pytest.approx((16 + 40) * 0.5) and found.trials == estimate(TIMES, AMOUNTS).trials


@pytest.mark.parametrize(
    ("threads", "wall", "process", "seconds"),
    [
        (1, 9.0, 4.0, 4.0),  # other work on the machine does not count
        (4, 9.0, 9.0, 9.0),  # one thread does it all
        (4, 3.0, 11.0, 3.0),
        (2, 3.0, 8.0, 4.0),
    ],
)
def test_seconds_of_threads(threads: int, wall: float, process: float, seconds: float) -> None:
    assert cpu_seconds(wall, process, threads) == seconds
