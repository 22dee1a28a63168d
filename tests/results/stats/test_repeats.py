"""Runs of a trial and their means, against numbers computed by hand and by NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from results.stats.repeats import mean_images, mean_metrics, runs_of
from results.store.trial_row import Status, TrialRow


def run(number: int, repeats: str | None = None, status: Status = "done") -> TrialRow:
    return TrialRow(f"t{number}", number, status, repeats=repeats)


def ids(groups: list[list[TrialRow]]) -> list[list[str]]:
    return [[row.trial_id for row in group] for group in groups]


def test_runs_are_grouped_by_the_first_run_in_the_order_of_their_numbers() -> None:
    rows = [run(9, "t1"), run(1), run(2), run(5, "t1"), run(6, "t2", "failed"), run(7, "t2", "stopped"), run(3)]
    assert ids(runs_of(rows)) == [["t1", "t5", "t9"], ["t2"], ["t3"]]


def test_repeats_stand_for_a_first_run_that_is_not_done() -> None:
    rows = [run(1, status="failed"), run(8, "t1"), run(4, "t1"), run(3, "gone")]
    assert ids(runs_of(rows)) == [["t3"], ["t4", "t8"]]
    assert runs_of([run(1, status="stopped"), run(2, "t1", "failed")]) == []


def test_means_and_spreads_by_hand() -> None:
    runs: list[dict[str, Any]] = [
        {"flops": 7, "boundary_f1": 0.7, "boundary_f1/a": 0.5, "hd95": None, "dice": 0.9},
        {"flops": 7, "boundary_f1": 0.6, "boundary_f1/a": 0.5, "hd95": 3.0, "dice": float("nan")},
        {"flops": 7, "boundary_f1": 0.65, "boundary_f1/a": 0.8, "hd95": 4.0, "dice": 0.8, "iou": 1.0},
    ]
    found = mean_metrics(runs)
    assert found.pop("boundary_f1") == pytest.approx(0.65) and found.pop("seed_sd/boundary_f1") == pytest.approx(0.05)
    assert found.pop("boundary_f1/a") == pytest.approx(0.6)
    assert found.pop("seed_sd/boundary_f1/a") == pytest.approx(0.03**0.5)
    # a metric without a value in every run has no mean, and a cost has no spread
    assert found == {
        "flops": 7, "hd95": None, "dice": None, "seeds": 3, "single/boundary_f1": 0.7, "single/boundary_f1/a": 0.5,
    }  # fmt: skip


def test_a_single_run_is_its_own_mean() -> None:
    assert mean_metrics([{"dice": 0.1, "flops": 3}]) == {"dice": 0.1, "flops": 3, "seeds": 1}


def test_equal_figures_are_not_rounded() -> None:
    assert mean_metrics([{"dice": 0.1}] * 3)["dice"] == 0.1


@pytest.mark.parametrize("seed", range(3))
def test_random_means_are_those_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(rng.integers(2, 6), 3))
    found = mean_metrics([dict(zip("abc", map(float, row), strict=True)) for row in table])
    centred = table - table.mean(axis=0)
    for column, name in enumerate("abc"):
        assert found[name] == pytest.approx(table[:, column].mean())
        variance = centred[:, column] @ centred[:, column] / (len(table) - 1)
        assert found[f"seed_sd/{name}"] == pytest.approx(variance**0.5)
        assert found[f"single/{name}"] == table[0, column]


def test_images_are_matched_by_name_and_averaged() -> None:
    def image(trial_id: str, name: str, dice: float | None, **more: Any) -> dict[str, Any]:
        return {"trial_id": trial_id, "dataset": "d", "name": name, "dice": dice, **more}

    first = [image("t0", "b", 0.2, hd95=4), image("t0", "a", 0.6, hd95=1), image("t0", "c", 0.9, hd95=0)]
    second = [image("t1", "a", 0.4, hd95=2), image("t1", "b", None, hd95=4)]
    assert mean_images([first, second]) == [image("t0", "b", None, hd95=4), image("t0", "a", 0.5, hd95=1.5)]
    assert mean_images([first]) == first and mean_images([first, []]) == []
