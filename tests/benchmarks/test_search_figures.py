"""Figures of the search's comparison with grids, against brute force on random trials."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.search_arms.figures import (
    REFERENCE,
    Finished,
    anytime,
    anytime_share,
    best_within,
    front_at,
    front_volume,
    regret,
    smallest_share,
    t_interval,
    volumes_at,
)


def trials(seed: int, count: int = 30) -> list[Finished]:
    """Random finished trials, some of which repeat another one."""
    rng = np.random.default_rng(seed)
    shares = np.exp(rng.uniform(np.log(0.04), np.log(0.9), count))
    owners = [i if i < 5 or rng.random() < 0.7 else int(rng.integers(0, 5)) for i in range(count)]
    quality = 0.55 + 0.2 * shares**0.3 + rng.normal(0, 0.02, (2, count))
    return [
        Finished(float(i + 1), f"t{owner:04d}", float(shares[owner]), float(quality[0, i]), float(quality[1, i]))
        for i, owner in enumerate(owners)
    ]


def means(finished: list[Finished], seconds: float) -> dict[str, tuple[float, float, float]]:
    """Share and both qualities of each candidate, without pandas."""
    groups: dict[str, list[Finished]] = {}
    for each in finished:
        if each.seconds <= seconds:
            groups.setdefault(each.candidate, []).append(each)
    return {
        name: (runs[0].share, float(np.mean([r.searched for r in runs])), float(np.mean([r.reported for r in runs])))
        for name, runs in groups.items()
    }


def chosen(finished: list[Finished], seconds: float) -> list[tuple[float, float, float]]:
    """The members of the front by comparison of all pairs."""
    models = list(means(finished, seconds).values())
    return sorted(
        one
        for one in models
        if not any(o[0] <= one[0] and o[1] >= one[1] and (o[0] < one[0] or o[1] > one[1]) for o in models)
    )


@pytest.mark.parametrize("seed", range(4))
def test_front_by_search_images_with_means_over_runs(seed: int) -> None:
    for seconds in (3.0, 17.5, 30.0):
        front = front_at(trials(seed), seconds)
        np.testing.assert_allclose(front.to_numpy(), chosen(trials(seed), seconds))


@pytest.mark.parametrize("seed", range(4))
def test_volume_is_the_area_below_the_best_report_figure(seed: int) -> None:
    front = front_at(trials(seed), 30.0)
    grid = np.linspace(0, REFERENCE[0], 20_001)
    shares, _, reported = np.array(chosen(trials(seed), 30.0)).T
    best = np.where(shares <= grid[:, None], reported, REFERENCE[1]).max(axis=1)
    assert front_volume(front) == pytest.approx(np.trapezoid(best - REFERENCE[1], grid), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_regret_is_an_integral_over_the_logarithm(seed: int) -> None:
    front, dense = front_at(trials(seed), 30.0), 0.76
    logs = np.linspace(np.log(0.05), np.log(0.6), 20_001)
    shares, searched, reported = np.array(chosen(trials(seed), 30.0)).T
    within = shares <= np.exp(logs)[:, None]
    best = np.where(within, searched, -np.inf).argmax(axis=1)
    heights = np.where(within.any(axis=1), reported[best], REFERENCE[1])
    assert regret(front, dense, 0.05, 0.6) == pytest.approx(np.trapezoid(dense - heights, logs), abs=1e-4)


def test_volumes_are_those_of_the_trials_so_far() -> None:
    finished = trials(1)
    moments = [0.0, 0.99, 1.0, 7.2, 30.0, 99.0]
    expected = [front_volume(front_at(finished, moment)) for moment in moments]
    assert volumes_at(finished, moments).tolist() == expected
    assert expected[:2] == [0.0, 0.0]


def test_best_and_smallest_by_hand() -> None:
    front = pd.DataFrame({"share": [0.05, 0.1005, 0.3], "searched": [0.6, 0.7, 0.8], "reported": [0.62, 0.75, 0.74]})
    assert [best_within(front, share) for share in (0.05, 0.1, 0.29, 0.5)] == [0.62, 0.75, 0.75, 0.74]
    assert math.isnan(best_within(front, 0.03)) and best_within(front, 0.1, slack=0.0) == 0.62
    assert smallest_share(front, 0.73) == 0.1005 and math.isnan(smallest_share(front, 0.9))


def test_no_trial_in_time() -> None:
    front = front_at(trials(0), 0.5)
    assert front.empty and front_volume(front) == 0.0 and volumes_at([], [0.0, 5.0]).tolist() == [0.0, 0.0]
    assert math.isnan(best_within(front, 0.5)) and math.isnan(smallest_share(front, 0.5))
    assert regret(front, 0.7, 0.05, 0.6) == pytest.approx(0.2 * math.log(12))


def test_interval_by_students_t() -> None:
    values = np.random.default_rng(5).normal(1, 2, 7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values.tolist()) == pytest.approx((values.mean(), low, high))
    alone = t_interval([0.3])
    assert alone.mean == 0.3 and math.isnan(alone.low) and math.isnan(alone.high)


def test_order_is_even_whenever_it_stops() -> None:
    assert [anytime(number) for number in range(9)] == [0, 1, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
    for power in range(1, 8):
        points = sorted(anytime(number) for number in range(2**power + 1))
        np.testing.assert_allclose(np.diff(points), 0.5**power)
    shares = [anytime_share(number, 0.05, 0.6) for number in range(3)]
    assert shares == pytest.approx([0.05, 0.6, math.sqrt(0.05 * 0.6)])
