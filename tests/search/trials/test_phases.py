"""A trial as a sequence of phases: what each reports, what a scheduler adds, and where a resumed trial continues."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from medcore.training.orders import even_steps
from medcore.training.refit.refit import RefitSettings
from medcore.training.schedule import Schedule
from results.store.trials import read_phases, read_row, trial_folder
from search.base.config import load_config
from search.base.fidelities import Showing, write_shown
from search.base.phase_keys import FIDELITY, PROGRESS
from search.base.sections.pruning import RecoveryConfig
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, cost_metrics, search_images
from search.study.prepare import prepare
from search.trials import recorder
from search.trials.attempt import begin
from search.trials.files import PHASE_CHECKPOINT
from search.trials.phase_result import PhaseResult
from search.trials.phases import phases, progress, schedule_of, trial_schedule
from search.trials.sampling.space import decode, domain_of
from search.trials.sampling.warm import warm_starts
from search.trials.trial import trial_phases
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import assert_same, weights

ALWAYS = ["leverage", "heads", "heads_refit", "heads_recovery", "mlp", "mlp_refit", "mlp_recovery", "evaluation", "row"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    sections = {"recovery": {"steps": 5}, "schedule": {"order": "heads_first"}, "search": {"scheduler": "none"}}
    config = load_config(write_tiny_study(tmp_path_factory.mktemp("phases"), **sections))
    images = search_images(config.datasets, adapted_model(config.model).arch.img_size)
    return prepare(trial_settings(config), study_jobs(config), images)


def issued(study: Path, shared: Shared) -> dict[str, Any]:
    """The knapsack warm start as a trial."""
    trial = {"trial_id": "t0001", "number": 1, "seed": 7, "repeats": None, "averages": (), **warm_starts(shared)[1]}
    return trial | {"study_dir": str(study), "attempt": begin(study, "t0001", "a node")}


def watched(shared: Shared, scheduler: str = "asha") -> Shared:
    search = shared.settings.search.model_copy(update={"scheduler": scheduler, "scheduler_images": 2})
    return dataclasses.replace(shared, settings=dataclasses.replace(shared.settings, search=search))


def test_each_phase_reports_and_the_last_has_the_row(shared: Shared, tmp_path: Path) -> None:
    found = list(trial_phases(issued(tmp_path, shared), shared))
    assert [phase.name for phase in found] == ALWAYS
    following = [
        "heads refit",
        "heads recovery, 2 steps",
        "cut mlp",
        "mlp refit",
        "mlp recovery, 3 steps",
        "evaluation",
    ]
    assert [phase.following for phase in found] == ["", *following, "", ""]
    by_name = {phase.name: phase.figures for phase in found}
    assert by_name["heads"] == by_name["mlp"] == {} and set(by_name["heads_recovery"]) == {"loss"}
    branches = {"refit_error_before", "refit_error_after", "refit_error_worst"}
    assert set(by_name["mlp_refit"]) == branches | {"refit_neck_error_before", "refit_neck_error_after"}
    row = found[-1].row
    assert row is not None and read_row(tmp_path, "t0001") == row
    assert all(phase.row is None for phase in found[:-1])
    for name in ("boundary_f1", "hd95"):
        assert by_name["evaluation"][name] == by_name["row"][name] == row.metrics[name]
    assert by_name["row"][PROGRESS] == 100 and PROGRESS not in by_name["evaluation"]
    assert not (trial_folder(tmp_path, "t0001") / PHASE_CHECKPOINT).exists()
    steps = [(point["phase"], point["step"]) for point in losses(tmp_path) if point["name"] == "loss"]
    assert steps[:3] == [("heads_recovery", 0), ("heads_recovery", 1), ("mlp_recovery", 0)]


def test_a_scheduler_sees_objectives_after_each_recovery_but_the_last_and_changes_no_result(
    shared: Shared, tmp_path: Path
) -> None:
    plain = list(trial_phases(issued(tmp_path / "plain", shared), shared))
    found = list(trial_phases(issued(tmp_path / "watched", shared), watched(shared)))
    assert [phase.name for phase in found] == ALWAYS
    by_name = {phase.name: phase.figures for phase in found}
    early = by_name["heads_recovery"]
    assert {"loss", "boundary_f1", "hd95", "flops", PROGRESS} <= early.keys() and early[PROGRESS] == 40  # 2 of 5 steps
    assert set(by_name["mlp_recovery"]) == {"loss"}
    assert early["flops"] == by_name["row"]["flops"]
    one, other = found[-1].row, plain[-1].row
    assert one is not None and other is not None and one.metrics == other.metrics


def test_halving_looks_after_the_last_refit_and_in_the_middle_of_the_last_recovery(
    shared: Shared, tmp_path: Path
) -> None:
    """The second family recovers for 3 steps and pauses after the first. No result changes."""
    plain = list(trial_phases(issued(tmp_path / "plain", shared), shared))
    found = list(trial_phases(issued(tmp_path / "watched", shared), watched(shared, "halving")))
    assert [phase.name for phase in found] == [*ALWAYS[:6], "refit", "part", *ALWAYS[6:]]
    by_name = {phase.name: phase.figures for phase in found}
    for number, name in enumerate(("refit", "part")):
        figures = by_name[name]
        assert {"boundary_f1", "hd95", "flops", "band_error"} <= figures.keys()
        assert figures[FIDELITY] == number and figures["flops"] == by_name["row"]["flops"]
    assert all(FIDELITY not in figures for name, figures in by_name.items() if name not in ("refit", "part"))
    following = {phase.name: phase.following for phase in found}
    assert following["refit"] == "mlp recovery, 3 steps" and following["part"] == "mlp recovery, from step 1 of 3"
    one, other = found[-1].row, plain[-1].row
    assert one is not None and other is not None and one.metrics == other.metrics
    assert one.fidelities["part/band_error"] == by_name["part"]["band_error"] and not other.fidelities


@pytest.mark.parametrize("change", [{"teaches": False}, {"origin": "dense"}])
def test_halving_does_not_look_at_baselines_and_repeats(shared: Shared, tmp_path: Path, change: dict[str, Any]) -> None:
    found = list(trial_phases(issued(tmp_path, shared) | change, watched(shared, "halving")))
    assert [phase.name for phase in found] == ALWAYS


def test_a_trial_that_continues_behind_its_pause_keeps_what_it_showed(shared: Shared, tmp_path: Path) -> None:
    """The scheduler's record holds the figures; the pause itself is not repeated."""
    trial, halved = issued(tmp_path, shared), watched(shared, "halving")
    write_shown(tmp_path, "t0001", {"part": Showing({"boundary_f1": 0.25, FIDELITY: 1.0}, 1, True)})
    row = list(trial_phases(trial, dataclasses.replace(halved, settings=shared.settings)))[-1].row
    assert row is not None and row.fidelities == {"part/boundary_f1": 0.25}


def test_a_trial_that_was_stopped_in_the_middle_continues_after_its_last_phase(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(trial_phases(issued(tmp_path / "whole", shared), shared))
    trial = issued(tmp_path / "killed", shared)
    killed = trial_phases(trial, shared)
    for _ in range(4):  # leverage, heads, heads_refit, heads_recovery
        next(killed)
    killed.close()
    names = []
    record = recorder.Recorder.record
    monkeypatch.setattr(
        recorder.Recorder, "record", lambda self, end: (names.append(end.phase.name), record(self, end))[1]
    )
    resumed = list(trial_phases(trial, shared))
    assert [phase.name for phase in resumed] == ["leverage", "mlp", "mlp_refit", "mlp_recovery", "evaluation", "row"]
    assert names == ["mlp", "mlp_refit", "mlp_recovery"]
    one, other = resumed[-1].row, whole[-1].row
    assert one is not None and other is not None and (one.metrics, one.reason) == (other.metrics, other.reason)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def losses(study: Path) -> list[dict[str, Any]]:
    return [point for point in read_phases(study, "t0001") if point["phase"] != "system"]


def test_phases_return_the_model_and_the_metrics_of_each_image(shared: Shared) -> None:
    plan = decode(warm_starts(shared)[1]["params"], domain_of(shared))

    def run() -> tuple[list[PhaseResult], Any]:
        work, found = phases(plan, shared, 7), []
        while True:
            try:
                found.append(next(work))
            except StopIteration as end:
                return found, end.value

    found, (model, images) = run()
    assert model.spec == plan.spec and len(images) == len(shared.search_images)
    assert found[-1].name == "evaluation"
    _, (again, _) = run()
    assert_same(weights(model), weights(again))


def test_progress_counts_recovery_steps(shared: Shared) -> None:
    plan = decode(warm_starts(shared)[1]["params"], domain_of(shared))
    recovery = shared.settings.recovery
    schedule = schedule_of((plan.spec,), recovery, lr=1e-3, head_share=0.4, order="heads_first", rescore=False)
    assert [progress(schedule, done) for done in range(7)] == [0, 0, 0, 40, 40, 40, 100]
    none = recovery.model_copy(update={"steps": 0})
    schedule = schedule_of((plan.spec,), none, lr=1e-3, head_share=0.4, order="together", rescore=False)
    assert progress(schedule, 3) == 0


def test_a_schedule_follows_the_section(shared: Shared) -> None:
    plan = decode(warm_starts(shared)[1]["params"], domain_of(shared))
    section = RecoveryConfig(steps=9, warmup=3, average=0.25, refit_images=7, refit_ridge=0.5, batch_size=2)

    def made(recovery: RecoveryConfig) -> Schedule:
        return schedule_of((plan.spec,), recovery, lr=1e-3, head_share=0.4, order="together", rescore=False)

    schedule = made(section)
    assert schedule.refit == RefitSettings(images=7, ridge=0.5, neck="pointwise")
    last = schedule.recovery_of(schedule.phases[-1])
    assert (last.steps, last.warmup, last.average, last.batch_size) == (9, 3, 0.25, 2)
    without = made(section.model_copy(update={"refit_images": 0}))
    assert [phase.name for phase in without.phases] == ["both", "both_recovery"]


def test_recoveries_of_a_search_take_about_as_long_whatever_was_cut(shared: Shared) -> None:
    def steps(start: int, shared: Shared, **params: Any) -> int:
        plan = decode(warm_starts(shared)[start]["params"] | params, domain_of(shared))
        schedule = trial_schedule(plan, shared)
        return sum(schedule.recovery_of(phase).steps for phase in schedule.phases if phase.is_recovery)

    settings = shared.settings
    recovery = settings.recovery.model_copy(update={"steps": 100})
    search = settings.search.model_copy(update={"even_recovery": True})
    hundred = dataclasses.replace(shared, settings=dataclasses.replace(settings, recovery=recovery, search=search))
    left = cost_metrics(decode(warm_starts(shared)[1]["params"], domain_of(shared)).spec)["flops_paper_fraction"]
    assert steps(0, hundred) == 100  # the dense model is the standard
    assert steps(1, hundred) == pytest.approx(min(400, max(25, 15 / left)), abs=1)
    assert steps(1, hundred, steps=33.4) == steps(0, hundred, steps=33.4) == 33
    same = dataclasses.replace(shared, settings=dataclasses.replace(settings, recovery=recovery))
    assert steps(1, same) == 100


@pytest.mark.parametrize(
    ("steps", "fraction", "expected"), [(120, 0.15, 120), (120, 0.05, 360), (120, 0.01, 480), (120, 0.3, 60)]
)
def test_steps_follow_the_share_that_is_left(steps: int, fraction: float, expected: int) -> None:
    assert even_steps(steps, fraction) == expected
    assert even_steps(0, fraction) == 0 and even_steps(1, 0.9) == 1 and even_steps(120, 1.0) == 30
