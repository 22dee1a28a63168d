"""A trial by the plateau plan with further loss terms: its phases, and the same bits after it was killed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from medcore.training.plans.registry import LAST_CUT
from search.base.config import load_config
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from search.trials.meter import Meter
from search.trials.phases import phases, trial_schedule
from search.trials.recorder import Recorder
from search.trials.sampling.space import Plan, decode, domain_of
from search.trials.sampling.warm import warm_starts
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import assert_same, weights

SECTIONS: dict[str, Any] = {
    "recovery": {"steps": 10, "terms": {"lomix": 1.0}},
    "schedule": {"plan": "plateau", "rounds": 2},
    "search": {"scheduler": "none"},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    config = load_config(write_tiny_study(tmp_path_factory.mktemp("plateau"), **SECTIONS))
    images = search_images(config.datasets, adapted_model(config.model).arch.img_size)
    return prepare(trial_settings(config), study_jobs(config), images)


@pytest.fixture
def plan(shared: Shared) -> Plan:
    return decode(warm_starts(shared)[1]["params"], domain_of(shared))


def run(plan: Plan, shared: Shared, folder: Path, stop: int | None = None) -> tuple[list[str], Any]:
    """Names of the phases that ran, and the model; None for a trial that was killed after `stop` of them."""
    work, names = phases(plan, shared, 3, Recorder.in_folder(folder, 1, None, Meter())), []
    while len(names) != stop:
        try:
            names.append(next(work).name)
        except StopIteration as end:
            return names, end.value[0]
    work.close()
    return names, None


def test_a_trial_by_the_plateau_plan_resumes_in_the_same_bits(plan: Plan, shared: Shared, tmp_path: Path) -> None:
    names, model = run(plan, shared, tmp_path / "whole")
    assert names == [
        *(f"r{number}/{stage}" for number in (1, 2) for stage in ("both", "both_recovery")),
        *("r3/both", "r3/both_refit", "r3/both_recovery", "evaluation"),
    ]
    assert model.spec == plan.spec != shared.start_spec
    for stop in (2, 4):
        run(plan, shared, tmp_path / f"{stop}", stop)
        rest, resumed = run(plan, shared, tmp_path / f"{stop}")
        assert rest == names[stop:]
        assert_same(weights(resumed), weights(model))


def test_the_windows_take_two_fifths_of_the_steps(plan: Plan, shared: Shared) -> None:
    schedule = trial_schedule(plan, shared)
    recoveries = [phase for phase in schedule.phases if phase.is_recovery]
    assert [schedule.recovery_of(phase).steps for phase in recoveries] == [2, 2, 6]
    assert Fraction(2 + 2, 10) == LAST_CUT
    assert all(schedule.recovery_of(phase).terms == {"lomix": 1.0} for phase in recoveries)
