"""Searches that are killed, terminated or stopped and then resumed: each trial ends once, with unchanged rows."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from medcore.errors import MedcoreError
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, read_study, write_row
from search.base.fidelities import read_shown
from search.base.phase_keys import FIDELITY
from search.base.samplers import SamplerSettings
from search.base.schedulers import SchedulerSettings
from search.trials.ledger import all_issued
from search.trials.phase_result import PhaseResult
from tests.support.studies.searches import (
    OBJECTIVES,
    ONE_AT_A_TIME,
    note_start,
    row_of,
    searched,
    start_program,
    starts_of,
    wait_for_rows,
    wait_until,
    workers_are_gone,
)

pytestmark = pytest.mark.usefixtures("local_ray")

#: A search as a program of its own, to be stopped.
DRIVER = """
import sys
from pathlib import Path
from tests.search.driver.test_resume import endless
from tests.support.studies.searches import searched

print(searched(Path(sys.argv[1]), 16, endless).message)
"""


def endless(trial: Mapping[str, Any]) -> TrialRow:
    """Trials from the fifth on do not end."""
    study = note_start(trial)
    while trial["number"] >= 4:
        time.sleep(0.05)
    return written(study, row_of(trial))


def held(trial: Mapping[str, Any]) -> TrialRow:
    """Trials from the twelfth on do not end before there is a file `go`."""
    study = note_start(trial)
    while trial["number"] >= 11 and not (study / "go").exists():
        time.sleep(0.05)
    return written(study, row_of(trial))


def written(study: Path, row: TrialRow) -> TrialRow:
    write_row(study, row)
    return row


def test_killed_then_stopped_then_resumed(tmp_path: Path) -> None:
    """SIGKILL, resume, SIGTERM, resume, Ctrl-C, resume: each trial ends once, and no finished one runs again.

    SIGTERM is what a container, Slurm or a preempted machine sends first; Ray has a handler of its own for it.
    """
    study = tmp_path / "study"
    driver = start_program(DRIVER, study)
    wait_for_rows(study, 2, driver)
    arguments: tuple[Any, ...] = (study, 16, held)
    with pytest.raises(MedcoreError, match="another search is writing"):
        searched(*arguments, resume=True)
    driver.kill()
    driver.wait()
    wait_until(lambda: workers_are_gone(study))
    killed_at = {row.trial_id: row for row in all_rows(study)}

    stopped_at = killed_at
    for number in (signal.SIGTERM, signal.SIGINT):
        before, rows = signal.getsignal(number), len(stopped_at)
        command = "medcore search c.yaml --resume"
        outcome = searched(*arguments, resume=True, on_row=_stop_after(2, number), resume_command=command)
        assert outcome.interrupted and not outcome.complete and signal.getsignal(number) is before
        expected = rf"stopped by request: \d+ trials done, 0 failed, \d+ of 16 missing; go on with: {command}"
        assert re.fullmatch(expected, outcome.message)
        stopped_at = {row.trial_id: row for row in all_rows(study)}
        assert rows + 2 <= len(stopped_at) < 16

    (study / "go").touch()
    assert searched(*arguments, resume=True).message == "16 trials done, 0 failed"
    assert list(read_study(study)["trial_id"]) == [f"t{i:04d}" for i in range(16)]
    after = {row.trial_id: row for row in all_rows(study)}
    assert {trial_id: after[trial_id] for trial_id in stopped_at} == killed_at | stopped_at
    starts = starts_of(study)
    assert all(starts[trial_id] == 1 for trial_id in killed_at)
    assert sum(starts.values()) <= 16 + 6  # two trials were under way at each stop


def _stop_after(count: int, number: signal.Signals) -> Callable[[TrialRow], None]:
    """Send a signal to this process when so many trials have ended."""
    ended: list[TrialRow] = []

    def on_row(row: TrialRow) -> None:
        ended.append(row)
        if len(ended) == count:
            os.kill(os.getpid(), number)

    return on_row


def noisy(trial: Mapping[str, Any]) -> Iterator[PhaseResult]:
    """Show figures of parameters and seed to the scheduler, then make a row of them.

    Kill the worker or driver if a file in the study's folder asks for it.
    """
    study, number = note_start(trial), trial["number"]
    for whom, process in (("worker", os.getpid()), ("driver", None)):
        order = study / f"kill-{whom}-{number}"
        if order.exists():
            target = process or int((study / "search.lock").read_text().split()[0])
            order.unlink()
            os.kill(target, signal.SIGKILL)
            time.sleep(600)  # on a busy machine a killed driver's Ray ends its workers after minutes
    x = trial["params"]["x"]
    quality = float(np.sin(20 * x) + np.random.default_rng(trial["seed"]).normal())
    if trial["repeats"] is None:
        yield PhaseResult("look", {"cost": x * x, "quality": quality, FIDELITY: 0.0})
    yield PhaseResult("row", row=row_of(trial, cost=x * x, quality=quality, finished=str(time.time())))


TRIALS = 16
SETTINGS: dict[str, Any] = {
    "sampler": SamplerSettings("tpe", 3),
    "scheduler": SchedulerSettings("halving", objectives=OBJECTIVES),
    "finalists": 3,
}
#: Columns that differ between two runs.
TIMES = {"seconds", "started", "finished"}

#: The disturbed study's driver, to be killed by its own trial. Its second argument is a Ray, to start none.
NOISY_DRIVER = """
import sys
from pathlib import Path
from search.driver.job import Execution
from tests.search.driver.test_resume import TRIALS, SETTINGS, noisy
from tests.support.studies.searches import searched

searched(Path(sys.argv[1]), TRIALS, noisy, Execution(concurrency=1, ray_address=sys.argv[2]), **SETTINGS)
"""


def test_a_disturbed_study_has_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    """One trial at a time; enough trials for TPE's own model, which starts after 10. The last three are repeats."""
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    arguments: tuple[Any, ...] = (TRIALS, noisy, ONE_AT_A_TIME)
    searched(quiet, *arguments, **SETTINGS)

    disturbed.mkdir()
    for order in ("kill-worker-5", "kill-worker-11", "kill-driver-14"):
        (disturbed / order).touch()
    driver = start_program(NOISY_DRIVER, disturbed, ray.get_runtime_context().gcs_address)
    assert driver.wait(timeout=240) == -signal.SIGKILL
    wait_until(lambda: workers_are_gone(disturbed))
    assert not list(disturbed.glob("kill-*")) and len(all_rows(disturbed)) == 14
    assert searched(disturbed, *arguments, **SETTINGS, resume=True).complete

    def rows(study: Path) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.to_flat().items() if key not in TIMES} for row in all_rows(study)]

    assert rows(disturbed) == rows(quiet)
    assert {row["status"] for row in rows(quiet)} == {"done", "stopped"}
    assert all_issued(disturbed) == all_issued(quiet)
    looks = [[read_shown(study, trial.trial_id) for trial in all_issued(study)] for study in (disturbed, quiet)]
    assert looks[0] == looks[1] and [bool(shown) for shown in looks[0]] == [True] * 13 + [False] * 3
    expected = {f"t{number:04d}": 2 if number in (5, 11, 14) else 1 for number in range(TRIALS)}
    assert starts_of(disturbed) == expected
