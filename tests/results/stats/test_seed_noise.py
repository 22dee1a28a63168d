"""Intervals over seeds against SciPy's, pooled noise against least squares, fronts against a plain comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.stats.objectives import Objective
from results.stats.repeats import mean_metrics
from results.stats.seed_noise import Candidate, dethroned, recovered_dense, runs_in, seed_interval, seed_noise

OBJECTIVES = [Objective("flops", "min"), Objective("dice", "max")]


def table(groups: list[np.ndarray], flops: np.ndarray | None = None) -> pd.DataFrame:
    """A trial table of candidates, with the Dice of each run."""
    costs = np.arange(len(groups)) if flops is None else flops
    rows = [
        {"trial_id": f"t{place}", "number": place, "status": "done", "origin": "sampled"}
        | mean_metrics([{"flops": float(cost), "dice": float(dice)} for dice in values])
        for place, (values, cost) in enumerate(zip(groups, costs, strict=True))
    ]
    return pd.DataFrame(rows)


def random_groups(seed: int, count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.3, 0.9) + 0.05 * rng.normal(size=rng.integers(1, 5)) for _ in range(count)]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_are_students(level: float) -> None:
    groups = random_groups(0)
    for values, (_, row) in zip(groups, table(groups).iterrows(), strict=True):
        found = seed_interval(row, "dice", level)
        assert runs_in(row) == len(values)
        if len(values) == 1:
            assert found is None
        else:
            sem = stats.sem(values)
            assert found == pytest.approx(stats.t.interval(level, len(values) - 1, loc=values.mean(), scale=sem))


def test_what_is_unknown_has_no_interval() -> None:
    assert seed_interval({"dice": 0.5}, "dice") is None and runs_in({"seeds": float("nan")}) == 1
    assert seed_interval({"dice": None, "seeds": 3, "seed_sd/dice": 0.1}, "dice") is None
    assert seed_interval({"dice": 0.5, "seeds": 3}, "dice") is None


@pytest.mark.parametrize("seed", range(3))
def test_pooled_noise_is_the_residual_of_a_fit_of_one_mean_a_group(seed: int) -> None:
    groups = random_groups(seed)
    values = np.concatenate(groups)
    design = np.repeat(np.eye(len(groups)), [len(group) for group in groups], axis=0)
    _, (residual,), rank, _ = np.linalg.lstsq(design, values, rcond=None)
    found = seed_noise(table(groups), "dice")
    assert found is not None and found.freedom == len(values) - rank
    assert found.sd == pytest.approx((residual / found.freedom) ** 0.5)
    assert seed_noise(table([group[:1] for group in groups]), "dice") is None


def dominated(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in others)


@pytest.mark.parametrize("seed", range(5))
def test_dethroned_are_those_that_only_the_first_runs_have_on_their_front(seed: int) -> None:
    groups, costs = random_groups(seed, 25), np.random.default_rng(seed).permutation(25).astype(float)
    fronts = []
    for pick in (lambda values: float(values[0]), lambda values: float(values.mean())):
        points = list(zip(costs, map(pick, groups), strict=True))
        fronts.append({place for place, point in enumerate(points) if not dominated(point, points)})
    found = dethroned(table(groups, costs), OBJECTIVES)
    assert [each.trial_id for each in found] == [f"t{place}" for place in sorted(fronts[0] - fronts[1])]
    for each in found:
        values = groups[int(each.trial_id[1:])]
        assert each.runs == len(values) and each.single["dice"] == values[0]
        assert each.mean["dice"] == pytest.approx(values.mean())


def test_a_trial_without_repeats_loses_to_the_mean_of_another() -> None:
    found = dethroned(table([np.array([0.5, 0.9]), np.array([0.6])], np.array([1.0, 2.0])), OBJECTIVES)
    assert found == [Candidate("t1", 1, {"flops": 2.0, "dice": 0.6}, {"flops": 2.0, "dice": 0.6})]
    assert dethroned(table([np.array([0.5]), np.array([0.6])]), OBJECTIVES) == []


def test_a_trial_that_a_run_gives_no_figure_has_no_mean() -> None:
    (found,) = dethroned(
        table([np.array([0.5, np.nan]), np.array([0.6, 0.6])]).assign(**{"single/dice": [0.5, 0.6]}), OBJECTIVES
    )
    assert found.mean == {"flops": 0.0, "dice": None} and found.single["dice"] == 0.5


def test_the_dense_model_is_a_trial_that_is_done() -> None:
    trials = table([np.array([0.8, 0.9]), np.array([0.5])])
    assert recovered_dense(trials) is None and recovered_dense(trials.drop(columns="origin")) is None
    trials.loc[0, "origin"] = "dense"
    found = recovered_dense(trials)
    assert found is not None and found["trial_id"] == "t0" and found["dice"] == pytest.approx(0.85)
    assert recovered_dense(trials.assign(status="failed")) is None
