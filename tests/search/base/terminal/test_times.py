"""Times for people, and the estimate that does not jump."""

from __future__ import annotations

import math

import pytest

from search.base.terminal.times import Countdown, about, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3600, "1 h 0 min"), (12000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "about 5 s left"),
        (42, "about 40 s left"),
        (59, "about 1 min left"),
        (100, "about 1 min 45 s left"),
        (725, "about 12 min left"),
        (3700, "about 1 h left"),
        (5400, "about 1 h 30 min left"),
    ],
)
def test_estimates_have_no_false_precision(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_a_right_estimate_counts_down_with_the_clock() -> None:
    countdown = Countdown()
    assert countdown.update(0.0, None) is None
    assert [countdown.update(now, 100.0 - now) for now in (10.0, 11.0, 50.0, 99.5)] == [90.0, 89.0, 50.0, 0.5]


def test_a_wrong_estimate_is_approached_exponentially() -> None:
    """The gap after t seconds is exp(-t / T) of the first, T = max(1, 0.2 min(left, time since the first estimate))."""
    countdown = Countdown()
    countdown.update(0.0, 500.0)
    assert countdown.update(100.0, 400.0) == 400.0
    shown = countdown.update(101.0, 799.0)
    assert shown == pytest.approx(799.0 + (399.0 - 799.0) * math.exp(-1.0 / (0.2 * 101.0)))
    near = Countdown()
    near.update(0.0, 1000.0)
    near.update(900.0, 100.0)
    assert near.update(901.0, 2.0) == pytest.approx(2.0 + (99.0 - 2.0) * math.exp(-1.0))
    assert near.update(901.0, 2.0) == pytest.approx(2.0 + 97.0 * math.exp(-1.0))  # asked again at once


def test_no_time_is_left_at_the_end() -> None:
    countdown = Countdown()
    countdown.update(0.0, 10.0)
    assert countdown.update(50.0, 0.0) == pytest.approx(0.0)
