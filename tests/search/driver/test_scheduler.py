"""Schedulers that stop or pause trials: real Tune runs whose trials are generators of phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from medcore.errors import MedcoreError
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, trial_folder
from search.base.phase_keys import PROGRESS
from search.base.schedulers import SCHEDULERS, SchedulerSettings
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.run import run_search
from search.driver.scheduler import make_scheduler
from search.trials.files import PHASE_CHECKPOINT
from search.trials.ledger import all_issued
from search.trials.phase_result import PhaseResult
from tests.support.studies.searches import OBJECTIVES, ONE_AT_A_TIME, space

pytestmark = pytest.mark.usefixtures("local_ray")

ASHA = SchedulerSettings("asha", "quality", "max")


def work(trial: Mapping[str, Any]) -> Iterator[PhaseResult]:
    """Four phases. The second and the third are evaluated; every other trial is bad. Each phase is noted on disk."""
    study, quality = Path(trial["study_dir"]), float(trial["number"] % 2 == 0)
    state = trial_folder(study, trial["trial_id"]) / PHASE_CHECKPOINT
    done = int(state.read_text()) if state.is_file() else 0
    for number, name in enumerate(("heads", "heads_recovery", "mlp", "mlp_recovery")):
        if number < done:
            continue
        with (study / "phases.log").open("a") as log:
            log.write(f"{trial['trial_id']} {name}\n")
        state.write_text(str(number + 1))
        evaluated = {"quality": quality, PROGRESS: 50.0} if name == "heads_recovery" else {}
        yield PhaseResult(name, evaluated)
    metrics = {"cost": trial["params"]["x"], "quality": quality}
    yield PhaseResult("row", {**metrics, PROGRESS: 100.0}, TrialRow.done(trial, metrics=metrics))


def job_of(study: Path, trials: int, scheduler: SchedulerSettings) -> SearchJob:
    return SearchJob(study, space, OBJECTIVES, trials, scheduler=scheduler)


def phases_of(study: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (study / "phases.log").read_text().splitlines():
        trial_id, phase = line.split()
        found.setdefault(trial_id, []).append(phase)
    return found


def test_a_trial_that_asha_stops_has_a_row_and_never_runs_again(tmp_path: Path) -> None:
    told: list[TrialRow] = []
    hooks = Hooks(on_row=told.append)
    outcome = run_search(job_of(tmp_path, 6, ASHA), Task(work), ONE_AT_A_TIME, hooks)
    assert outcome.message == "3 trials done, 0 failed, 3 stopped early"
    assert outcome.complete and (outcome.done, outcome.failed, outcome.stopped) == (3, 0, 3)
    rows = all_rows(tmp_path)
    assert [row.status for row in rows] == ["done", "stopped"] * 3 and [row.trial_id for row in told] == [
        row.trial_id for row in rows
    ]
    stopped = rows[1]
    assert stopped.reason == "stopped by the scheduler after heads_recovery"
    assert stopped.params == all_issued(tmp_path)[1].params and not stopped.metrics
    assert not (trial_folder(tmp_path, "t0001") / PHASE_CHECKPOINT).exists()
    log = phases_of(tmp_path)
    assert log["t0000"] == ["heads", "heads_recovery", "mlp", "mlp_recovery"]
    assert log["t0001"] == ["heads", "heads_recovery"]

    assert run_search(job_of(tmp_path, 7, ASHA), Task(work), ONE_AT_A_TIME, resume=True).complete
    after = phases_of(tmp_path)
    assert {trial_id: after[trial_id] for trial_id in log} == log and len(after) == 7


def test_without_a_scheduler_every_trial_runs_to_its_end(tmp_path: Path) -> None:
    outcome = run_search(job_of(tmp_path, 4, SchedulerSettings()), Task(work))
    assert outcome.message == "4 trials done, 0 failed"
    assert all(len(phases) == 4 for phases in phases_of(tmp_path).values())


class PauseOnce(FIFOScheduler):
    """Pauses every trial after its second phase, once."""

    def __init__(self) -> None:
        super().__init__()
        self._metric = "figures/quality"
        self._paused: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.trial_id in self._paused:
            return str(TrialScheduler.CONTINUE)
        self._paused.add(trial.trial_id)
        return str(TrialScheduler.PAUSE)


def test_a_trial_that_is_paused_continues_in_its_phase_and_uses_up_no_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scheduler that a plug-in could register."""
    monkeypatch.setitem(SCHEDULERS._entries, "pause", lambda settings: PauseOnce())
    job = job_of(tmp_path, 2, SchedulerSettings("pause", "quality"))
    outcome = run_search(job, Task(work), Execution(concurrency=2, retries=0))
    assert outcome.message == "2 trials done, 0 failed"
    assert all(phases == ["heads", "heads_recovery", "mlp", "mlp_recovery"] for phases in phases_of(tmp_path).values())


def test_schedulers_by_name() -> None:
    assert make_scheduler(SchedulerSettings()) is None
    asha = make_scheduler(ASHA)
    assert asha is not None and asha.metric == "figures/quality"
    with pytest.raises(MedcoreError, match="unknown scheduler 'bsha'; known are none, asha"):
        make_scheduler(SchedulerSettings("bsha"))
