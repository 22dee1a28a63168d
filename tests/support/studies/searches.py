"""Searches of a space with one number, in this process or in programs that tests kill; and which trials have begun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from results.store.trials import finished_ids
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.outcome import Outcome
from search.driver.run import run_search

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))
ONE_AT_A_TIME = Execution(concurrency=1)


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


def searched(study: Path, trials: int, work: Any, execution: Execution | None = None, **options: Any) -> Outcome:
    """Run a search of the tests' space; `options` are fields of the job, the task and the hooks, and `run_search`'s."""
    names = ("warm_starts", "sampler", "scheduler", "finalists")
    job = SearchJob(study, space, OBJECTIVES, trials, **taken(options, *names))
    hooks = Hooks(**taken(options, "on_row", "on_start"))
    return run_search(job, Task(work, options.pop("shared", {})), execution, hooks, **options)


def taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def row_of(trial: Mapping[str, Any], **more: Any) -> TrialRow:
    row = {key: trial[key] for key in ("trial_id", "number", "seed", "origin")}
    row |= {"status": "done", "cost": trial["params"]["x"], "quality": 1.0, "param/x": trial["params"]["x"]}
    return TrialRow.from_flat(row | more)


def note_start(trial: Mapping[str, Any]) -> Path:
    """Write down which process has begun the trial; returns the study's folder."""
    study = Path(trial["study_dir"])
    with (study / "starts.log").open("a") as log:
        log.write(f"{trial['trial_id']} {os.getpid()}\n")
    return study


def starts_with_process(study: Path) -> list[tuple[str, str]]:
    """Return trial and process of every start, in order."""
    lines = (study / "starts.log").read_text().splitlines()
    return [(trial_id, pid) for trial_id, pid in map(str.split, lines)]


def starts_of(study: Path) -> Counter[str]:
    """Return how often each trial has begun."""
    return Counter(trial_id for trial_id, _ in starts_with_process(study))


def workers_are_gone(study: Path) -> bool:
    """Whether no process that has begun a trial is alive: a killed driver's Ray needs a moment to end them."""
    pids = {pid for _, pid in starts_with_process(study)}
    listing = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(pids)], capture_output=True, text=True)
    return all(state.startswith("Z") for state in listing.stdout.split())


def start_program(text: str, study: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program with the study's folder as its first argument."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, "-c", text, str(study), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_rows(study: Path, count: int, driver: subprocess.Popen[str]) -> None:
    """Wait until so many trials have ended, while the program runs."""
    wait_until(lambda: len(finished_ids(study)) >= count or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()


def wait_until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until a condition holds; it is tried twenty times a second."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
