"""What a study looks like in a tracker, as plain values."""

from __future__ import annotations

import dataclasses
import math

import pytest

from medcore.errors import DataError
from results.store.study_info import study_info
from results.store.trial_row import TrialRow
from search.tracking.points import (
    Point,
    clean_key,
    flat_config,
    front_ranks_of,
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


POINT = {"phase": "p", "name": "n", "value": 1.0}


@pytest.mark.parametrize("phase", [{"phase": "p"}, 3, {**POINT, "step": "x"}, {**POINT, "step": math.inf}])
def test_a_malformed_phase_is_corrupt_data_of_its_trial(phase: object) -> None:
    with pytest.raises(DataError, match=r"t0001.*phases\.json"):
        run_points(ROW, [phase])  # type: ignore[list-item]


def test_names_and_configuration_fit_a_server() -> None:
    assert clean_key("dice/Kvasir & co/") == "dice/Kvasir _ co" and len(clean_key("x" * 300)) == 250
    config = {"tracking": {"uri": "http://me:pw@h", "kind": "mlflow"}, "empty": {}, "n": 1}
    assert flat_config(config) == {"tracking.uri": "http://h", "tracking.kind": "mlflow", "empty": "{}", "n": "1"}
