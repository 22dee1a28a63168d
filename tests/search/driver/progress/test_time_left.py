"""The time left of simulated searches, against the truth."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass
from statistics import fmean

import pytest

from search.base.terminal.times import Countdown
from search.driver.progress.time_left import EndedTrial, Pace, seconds_left


def test_no_estimate_before_a_trial_has_ended() -> None:
    assert seconds_left([], [3.0], 5) is None
    pace = Pace(3)
    pace.start("t0000", 5.0)
    assert pace.left(9.0) is None


def test_the_rest_by_hand() -> None:
    done = [EndedTrial("done", seconds) for seconds in (10.0, 12.0, 14.0)]
    stopped = [EndedTrial("stopped", seconds) for seconds in (3.0, 4.0, 5.0)]
    assert seconds_left(done, [], 4) == 4 * 12
    assert seconds_left(done, [], 4, places=3) == 2 * 12
    assert seconds_left([*done, *stopped], [], 6) == pytest.approx(6 * (12 + 4) / 2)
    assert seconds_left([*done, *stopped], [], 6, full=4) == pytest.approx(2 * 8 + 4 * 12)
    # one has run for 11 s: of the known ones, those of 12 s and 14 s took longer
    assert seconds_left(done, [11.0], 0) == pytest.approx((1 + 3) / 2)
    assert seconds_left(done, [30.0], 0) == pytest.approx(3.0)  # longer than all: a tenth more
    # a worker died twice: its trial counts as three usual ones
    assert seconds_left([*done, EndedTrial("done", 500.0)], [], 1) == pytest.approx((10 + 12 + 14 + 3 * 13) / 4)
    # warm starts are never stopped, so they do not make an early end less likely
    anchors = [EndedTrial("done", 12.0, sampled=False)] * 6
    assert seconds_left([*anchors, *done, *stopped], [], 2) == pytest.approx(2 * (12 + 4) / 2)


def test_a_restarted_trial_keeps_its_first_start() -> None:
    pace = Pace(2)
    pace.start("t0000", 0.0)
    pace.start("t0000", 7.0)
    pace.end("t0000", "done", 10.0)
    assert pace.left(10.0) == 10.0
    pace.start("t0001", 10.0)
    assert pace.left(14.0) == 6.0
    pace.end("t0001", "failed", 15.0)
    assert pace.left(15.0) == 0.0


def test_a_resumed_search_counts_only_what_is_left() -> None:
    pace = Pace(3)
    pace.start("t0007", 0.0)
    pace.start("t0008", 0.0)
    pace.end("t0007", "done", 10.0)
    assert pace.left(10.0) == 10.0  # the third starts at once


@dataclass(frozen=True)
class Reading:
    """What a person saw at one time, what the old formula would have shown, and the truth."""

    at: float
    ended: int
    shown: float | None
    by_pace: float | None
    truth: float


def simulated(seed: int, trials: int, places: int, *, repeats: int, stopped: float, spread: float) -> list[Reading]:
    """Play a search and read the estimate twice a second.

    Full trials take 20 s times a log-normal factor, stopped ones a third; three warm starts and the repeats are never
    stopped. The first trial of each worker waits 6 s for its process.
    """
    draw = random.Random(seed)
    free = [(0.0, place) for place in range(places)]
    events: list[tuple[float, int, int, str]] = []
    for number in range(trials):
        begin, place = heapq.heappop(free)
        seconds, status = 20 * math.exp(draw.gauss(0, spread)), "done"
        if 3 <= number < trials - repeats and draw.random() < stopped:
            seconds, status = seconds / 3, "stopped"
        end = begin + seconds + (6 if number < places else 0)
        events += [(begin, 1, number, ""), (end, 0, number, status)]
        heapq.heappush(free, (end, place))
    events.sort()
    total, pace, countdown, now, ended = events[-1][0], Pace(trials, repeats), Countdown(), 0.0, 0
    readings = []
    while now < total:
        while events and events[0][0] <= now:
            at, is_start, number, status = events.pop(0)
            if is_start:
                pace.start(str(number), at)
            else:
                pace.end(str(number), status, at, sampled=3 <= number < trials - repeats)
                ended += 1
        by_pace = now / ended * (trials - ended) if ended else None
        readings.append(Reading(now, ended, countdown.update(now, pace.left(now)), by_pace, total - now))
        now += 0.5
    return readings


def jump(values: list[float | None], total: float) -> float:
    """Return the largest change that is not the clock's, as a share of the whole time."""
    pairs = itertools.pairwise(values)
    return max(abs(after + 0.5 - before) for before, after in pairs if before and after) / total


SEARCHES = [
    pytest.param(48, 2, {"repeats": 6, "stopped": 0.6, "spread": 0.3}, id="halving"),
    pytest.param(48, 1, {"repeats": 0, "stopped": 0.0, "spread": 0.5}, id="uneven trials"),
    pytest.param(48, 8, {"repeats": 6, "stopped": 0.6, "spread": 0.3}, id="eight at once"),
    pytest.param(10, 2, {"repeats": 3, "stopped": 0.5, "spread": 0.2}, id="ten trials"),
]


@pytest.mark.parametrize(("trials", "places", "kind"), SEARCHES)
def test_the_estimate_is_steady_and_true(trials: int, places: int, kind: dict[str, float]) -> None:
    """From a fifth of the trials on, in 20 simulated searches.

    On average it is at most 10 % of the whole time off, and never worse than the time per trial so far. It never jumps
    by more than 8 %, on average by at most 4 %; the time per trial jumps several times as far.
    """
    errors, old_errors, jumps, old_jumps = [], [], [], []
    for seed in range(20):
        readings = simulated(seed, trials, places, **kind)  # type: ignore[arg-type]
        total = readings[0].truth
        known = [reading for reading in readings if reading.ended >= max(3, trials // 5)]
        errors.append(
            fmean(abs(reading.shown - reading.truth) for reading in known if reading.shown is not None) / total
        )
        old_errors.append(
            fmean(abs(reading.by_pace - reading.truth) for reading in known if reading.by_pace is not None) / total
        )
        jumps.append(jump([reading.shown for reading in known], total))
        old_jumps.append(jump([reading.by_pace for reading in known], total))
    assert fmean(errors) <= 0.1 and fmean(errors) <= 1.25 * fmean(old_errors)
    assert max(jumps) <= 0.08 and fmean(jumps) <= 0.04
    assert fmean(old_jumps) >= 5 * fmean(jumps)
