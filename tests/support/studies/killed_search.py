"""A program that runs two searches, the second of which kills itself at given points and is started again each time.

    python -m tests.support.studies.killed_search QUIET_CONFIG KILLED_CONFIG POINT...

Everything is the product's but Ray: jobs and trials run in one child process, one after the other. The program itself
computes nothing. So it may fork its children, and all of them together import everything once.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ray.tune.schedulers import TrialScheduler

from medcore.training import recovery_state, schedule
from results.store.trials import finished_ids
from search.base import halving
from search.base.config import load_config
from search.base.fidelities import Showing
from search.base.terminal.console import PlainConsole
from search.base.terminal.status import Status
from search.commands import search as experiment
from search.driver.excluded_nodes import ExcludedNodes
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.outcome import Outcome, outcome_of
from search.driver.scheduler import RecordingScheduler, make_scheduler
from search.driver.searcher import StudySearch
from search.driver.watcher import SearchState, Watcher
from search.nodes.session import Resources
from search.study.prepare import Report
from search.trials import phases
from search.trials.trial_run import TrialRun

#: Images of a job after which it dies; shards of four images end at 4 and 8.
_IMAGES = {"profile": 5, "teacher": 4}


class _Reports(Status):
    """Passes on how far jobs are, and shows nothing."""

    def __init__(self, report: Report) -> None:
        super().__init__(PlainConsole(quiet=True))
        self.report = report  # type: ignore[method-assign]


class Child:
    """One start of the search. It dies at one point, a pattern that names the trial and what it does."""

    def __init__(self, point: str | None) -> None:
        self._point = point
        self._trial = ""

    def run(self, config: Path) -> bool:
        """Run the search; return whether it is complete."""
        with self._killed():
            return experiment.search(load_config(config), resume=True, status=_Reports(self._report)).complete

    def run_trials(self, job: SearchJob, task: Task, execution: Execution, hooks: Hooks, **_: Any) -> Outcome:
        """Do what Tune does, in this process: ask the searcher, and the scheduler after every step."""
        searcher = StudySearch(job)
        watcher = Watcher(SearchState(job.study, 0, ExcludedNodes(None), threading.Event(), hooks), searcher)
        judge = make_scheduler(dataclasses.replace(job.scheduler, study=job.study))
        assert judge is not None
        scheduler = RecordingScheduler(judge, watcher.on_stop)
        while (count := len(finished_ids(job.study))) < job.trials:
            trial = SimpleNamespace(config=searcher.suggest(f"tune{count}"))
            self._trial = trial.config["trial_id"]
            result = self._steps(TrialRun(task.work, job.study, self._trial, task.shared, "here"), scheduler, trial)
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(f"tune{count}", result)
        return outcome_of(job.study, job.trials, False, problem=None, excluded=(), command="")

    def _steps(self, run: TrialRun, scheduler: RecordingScheduler, trial: Any) -> dict[str, Any]:
        """Perform steps until the trial ends or is stopped; return its last result as Tune flattens it."""
        while True:
            result: dict[str, Any] = dict(run.step())
            result |= {f"figures/{name}": value for name, value in result.pop("figures", {}).items()}
            if result["done"]:
                return result
            if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                run.close()
                return result

    def _die_at(self, place: str) -> None:
        if self._point is not None and fnmatch(place, self._point):
            os.kill(os.getpid(), signal.SIGKILL)

    def _report(self, job: str, done: int, total: int) -> None:
        if done == _IMAGES.get(job):
            self._die_at(job)

    def _look_written(self, study: Path, trial_id: str, looks: dict[str, Showing]) -> None:
        last = max(looks, key=lambda name: looks[name].order)
        self._die_at(f"{self._trial} {last} {'continues' if looks[last].continues else 'stops'}")

    @contextmanager
    def _killed(self) -> Iterator[None]:
        """Replace Ray by this process, save after every step of a recovery, and look for the point."""

        def then(place: Any, name: str, what: Callable[..., None]) -> Any:
            work = getattr(place, name)

            def both(*arguments: Any, **options: Any) -> Any:
                result = work(*arguments, **options)
                what(*arguments)
                return result

            return mock.patch.object(place, name, both)

        nothing = {"connected": lambda *_: nullcontext(), "placed": lambda *_: Resources()}
        nothing |= {"save_heatmaps": lambda *_: None, "save_curves": lambda *_: None}  # pictures take longest
        with (
            mock.patch.multiple(experiment, **nothing, run_search=self.run_trials),
            mock.patch.object(experiment.preflight, "for_late_nodes", lambda *_: None),
            mock.patch.object(experiment.slow, "check_nodes", lambda *_: 0),
            mock.patch.object(recovery_state, "PAUSE", 0),
            then(schedule, "refit", lambda *_: self._die_at(f"{self._trial} refit")),
            then(phases, "look", lambda *_: self._die_at(f"{self._trial} look")),
            then(halving, "write_shown", self._look_written),
            then(
                recovery_state.RecoveryFile,
                "after_step",
                lambda _, state: self._die_at(f"{self._trial} step {state.log.steps}"),
            ),
        ):
            yield


def survive(config: Path, points: Sequence[str]) -> None:
    """Run the search to its end, with one death at each point.

    Raises:
        RuntimeError: A child ended in another way.
    """
    for point in (*points, None):
        if (pid := os.fork()) == 0:
            os._exit(0 if Child(point).run(config) else 1)
        _, status = os.waitpid(pid, 0)
        if status != (0 if point is None else signal.SIGKILL):
            raise RuntimeError(f"at '{point}' the search ended with status {status}")


if __name__ == "__main__":
    survive(Path(sys.argv[1]), ())
    survive(Path(sys.argv[2]), sys.argv[3:])
