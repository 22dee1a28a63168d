"""What a study looks like in a tracker, as plain values."""

from __future__ import annotations

import pytest

from medcore.errors import DataError
from results.store.trial_row import TrialRow
from search.tracking.points import Point, clean_key, flat_config, run_params, run_points

ROW = TrialRow("t0001", 1, "done", seed=3, params={"fraction": 0.5, "adaptive": True}, budget={"blocks": (1, 0)})


def test_parameters_are_sampled_values_seed_and_every_family() -> None:
    assert run_params(ROW) == {"fraction": "0.5", "adaptive": "true", "seed": "3", "blocks": "[1,0]"}


def test_points_of_phases_keep_their_step_and_time() -> None:
    phases = [
        {"phase": "recovery", "name": "loss", "step": 4, "value": 0.5, "time": 7},
        {"phase": "recovery", "name": "loss", "step": 5, "value": None},
    ]
    assert run_points(ROW, phases) == [Point("recovery/loss", 0.5, 7, 4)]


@pytest.mark.parametrize("phase", [{"phase": "p"}, 3, {"phase": "p", "name": "n", "value": 1.0, "step": "x"}])
def test_a_malformed_phase_is_corrupt_data_of_its_trial(phase: object) -> None:
    with pytest.raises(DataError, match=r"t0001.*phases\.json"):
        run_points(ROW, [phase])  # type: ignore[list-item]


def test_names_and_configuration_fit_a_server() -> None:
    assert clean_key("dice/Kvasir & co/") == "dice/Kvasir _ co" and len(clean_key("x" * 300)) == 250
    config = {"tracking": {"uri": "http://me:pw@h", "kind": "mlflow"}, "empty": {}, "n": 1}
    assert flat_config(config) == {"tracking.uri": "http://h", "tracking.kind": "mlflow", "empty": "{}", "n": "1"}
