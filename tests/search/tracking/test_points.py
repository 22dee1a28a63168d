"""What a study looks like in a tracker, as plain values."""

from __future__ import annotations

import dataclasses
import math

import pytest

from medcore.errors import DataError
from results.store.study_info import study_info
from results.store.trial_row import Timing, TrialRow
from search.tracking.points import (
    Point,
    clean_key,
    flat_config,
    front_ranks_of,
    run_metrics,
    run_name,
    run_params,
    run_points,
    run_tags,
    study_points,
)
from tests.support.studies.repeated_study import INFO

ROW = TrialRow("t0001", 1, "done", seed=3, params={"fraction": 0.5, "adaptive": True}, budget={"blocks": (1, 0)})


def row(number: int, flops: float, quality: float, repeats: str | None = None) -> TrialRow:
    metrics = {"flops": flops, "boundary_f1": quality}
    return TrialRow(f"t{number}", number, "done", metrics=metrics, repeats=repeats)


def test_parameters_are_sampled_values_seed_and_every_family() -> None:
    assert run_params(ROW) == {"fraction": "0.5", "adaptive": "true", "seed": "3", "blocks": "[1,0]"}


def test_points_of_phases_keep_their_step_and_time() -> None:
    phases = [
        {"phase": "recovery", "name": "loss", "step": 4, "value": 0.5, "time": 7},
        {"phase": "recovery", "name": "loss", "step": 5, "value": None},
    ]
    assert run_points(ROW, phases) == [Point("recovery/loss", 0.5, 7, 4)]


def test_a_repeat_is_tagged_and_the_rest_of_its_run_is_as_ever() -> None:
    repeat = dataclasses.replace(ROW, repeats="t0000", fidelities={"part/dice": 0.5})
    assert run_tags(repeat) == run_tags(ROW) | {"medcore.repeats": "t0000"}
    assert run_params(repeat) == run_params(ROW)
    assert run_points(repeat, []) == [Point("fidelity/part/dice", 0.5, 0, 0)]


def test_ranks_are_those_of_means_and_repeats_have_none() -> None:
    info = study_info(INFO)
    rows = [row(0, 40, 0.69), row(1, 50, 0.70), row(2, 60, 0.60), row(3, 50, 0.60, repeats="t1")]
    assert front_ranks_of(rows, info) == {"t0": 1, "t1": 2, "t2": 3}
    assert front_ranks_of(rows[:3], info) == {"t0": 1, "t1": 1, "t2": 2}


def test_a_lucky_repeat_raises_no_curve() -> None:
    rows = [row(0, 40, 0.69), row(1, 40, 0.90, repeats="t0")]
    curves: dict[str, list[float]] = {}
    for point in study_points(rows, study_info(INFO), 0):
        curves.setdefault(point.key, []).append(point.value)
    assert curves["best/boundary_f1"] == [0.69, 0.69] and curves["trials_done"] == [1.0, 2.0]
    assert curves["hypervolume"] == pytest.approx([61 * 0.69] * 2)


def test_a_run_is_named_by_the_flops_that_run_and_by_its_quality() -> None:
    metrics = {"flops_fraction": 0.412, "flops_paper_fraction": 0.3, "boundary_f1": 0.7126}
    assert run_name(TrialRow("t0017", 17, "done", metrics=metrics)) == "t0017 · 41 % FLOPs · BF1 0.713"
    again = TrialRow("t0020", 20, "done", metrics=metrics, repeats="t0017")
    assert run_name(again) == "t0020 · 41 % FLOPs · BF1 0.713 · repeats t0017"
    average = TrialRow("t0021", 21, "done", metrics=metrics, origin="average of t0017")
    assert run_name(average) == "t0021 · 41 % FLOPs · BF1 0.713 · average of t0017"
    assert run_name(TrialRow("t0001", 1, "failed", metrics=metrics)) == "t0001 · failed"


def test_a_quantity_has_one_figure() -> None:
    own = {"dice": 0.8, "dice_images": 0.8, "dice_worst": 0.8, "flops": 5e9}
    fidelities = {"refit/dice": 0.7, "refit/dice_worst": 0.7, "refit/flops": 5e9}
    timing = Timing(seconds=3.0, stages={"refit": 3.0})
    row = TrialRow("t0", 0, "done", metrics=own | {"dice/kvasir": 0.8}, fidelities=fidelities, timing=timing)
    seconds = {"seconds": 3.0, "seconds/refit": 3.0}
    assert run_metrics(row) == {"dice": 0.8, "flops": 5e9, "gflops": 5.0, "fidelity/refit/dice": 0.7} | seconds
    of_two = own | {"dice/kvasir": 0.8, "dice/clinic": 0.8}
    assert run_metrics(TrialRow("t0", 0, "done", metrics=of_two)) == of_two | {"gflops": 5.0}


def test_the_hypervolume_is_told_as_a_share_of_the_best_conceivable() -> None:
    """A model without cost that is as good as the dense one dominates (101 - 0) x 0.78."""
    info = study_info(INFO)
    points = {point.key: point.value for point in study_points([row(0, 40, 0.69)], info, 0)}
    assert points["hypervolume"] == pytest.approx(61 * 0.69)
    assert points["hypervolume_relative"] == pytest.approx(61 * 0.69 / (101 * 0.78))
    bad = study_info(INFO | {"dense": {"flops": 100.0, "boundary_f1": 0.0}})
    assert "hypervolume_relative" not in {point.key for point in study_points([row(0, 40, 0.69)], bad, 0)}


POINT = {"phase": "p", "name": "n", "value": 1.0}


@pytest.mark.parametrize("phase", [{"phase": "p"}, 3, {**POINT, "step": "x"}, {**POINT, "step": math.inf}])
def test_a_malformed_phase_is_corrupt_data_of_its_trial(phase: object) -> None:
    with pytest.raises(DataError, match=r"t0001.*phases\.json"):
        run_points(ROW, [phase])  # type: ignore[list-item]


def test_names_and_configuration_fit_a_server() -> None:
    assert clean_key("dice/Kvasir & co/") == "dice/Kvasir _ co" and len(clean_key("x" * 300)) == 250
    config = {"tracking": {"uri": "http://me:pw@h", "kind": "mlflow"}, "empty": {}, "n": 1}
    assert flat_config(config) == {"tracking.uri": "http://h", "tracking.kind": "mlflow", "empty": "{}", "n": "1"}
