"""Intervals of medians, against every outcome of coin throws and against samples."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from medcore.quality.timing import timing_of


@pytest.mark.parametrize("count", [5, 6, 9, 12])
def test_the_interval_is_the_narrowest_of_ranks_that_holds_the_median(count: int) -> None:
    """A value is below the median with probability ½, so ranks cover it unless too many values are on one side."""
    found = timing_of([1e-3 * (number + 1) for number in range(count)])

    def coverage(rank: int) -> float:
        throws = [sum(throw) for throw in product((0, 1), repeat=count)]
        return float(np.mean([rank < below < count - rank for below in throws]))

    held = [rank for rank in range(count // 2) if coverage(rank) >= 0.95]
    if not held:
        assert found.low_ms is None and found.high_ms is None and math.isinf(found.width)
        return
    assert (found.low_ms, found.high_ms) == pytest.approx((held[-1] + 1, count - held[-1]))


def test_the_interval_holds_the_true_median_of_skewed_times_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    samples = 1e-3 * (1 + rng.exponential(1.0, (2000, 30)))
    truth = 1 + math.log(2)
    intervals = [timing_of(sample) for sample in samples]
    held = np.mean([each.low_ms <= truth <= each.high_ms for each in intervals])  # type: ignore[operator]
    assert held >= 0.94


def test_one_call_has_no_spread() -> None:
    found = timing_of([0.003], [0.002])
    assert found.iqr_ms is None and found.low_ms is None and found.repeats == 1
    assert found.median_ms == pytest.approx(3) and found.cpu_ms == pytest.approx(2)
