"""The search itself: Ray Tune runs trials, rows on disk are the result, and a stopped search continues from them."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import TrialScheduler

from medcore.errors import MedcoreError, brief
from results.store.trials import finished_ids
from search.base.lock import only_driver
from search.driver.excluded_nodes import ExcludedNodes
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.outcome import Outcome, outcome_of
from search.driver.ray_internals import trial_id_of
from search.driver.scheduler import RecordingScheduler, make_scheduler
from search.driver.searcher import StudySearch
from search.driver.watcher import SearchState, Watcher
from search.nodes.session import cluster_address, connected, fitting, request, watching_head
from search.trials.ledger import all_issued
from search.trials.worker import TrialWorker


def run_search(
    job: SearchJob,
    task: Task,
    execution: Execution | None = None,
    hooks: Hooks | None = None,
    *,
    resume: bool = False,
    resume_command: str | None = None,
) -> Outcome:
    """Run a study until it has a row for each of its trials.

    Ctrl-C and SIGTERM end it early and cleanly.

    Args:
        job: What the search looks for, and in which study.
        task: What each trial does.
        execution: How and where the trials run.
        hooks: Called in this process when a trial starts or ends.
        resume: Whether the study may have trials already.
        resume_command: What the user types to continue; part of messages.

    Raises:
        MedcoreError: The study exists and `resume` is false, another driver holds it, or no machine fits a trial.
    """
    study = job.study.absolute()
    job = dataclasses.replace(job, study=study)
    execution = execution or Execution()
    command = resume_command or f"medcore search {study / 'config.yaml'} --resume"
    excluded = ExcludedNodes(execution.ready)
    problem, interrupted = None, False
    with only_driver(study):
        if all_issued(study) and not resume:
            raise MedcoreError(
                f"{study}: this study has trials already; go on with it by --resume or use another --name"
            )
        if len(finished_ids(study)) < job.trials:
            # Ray installs a SIGTERM handler of its own when it starts, so ours come after it
            with connected(execution.ray_address, execution.resources), _stop_signals() as stop, ExitStack() as stack:
                if cluster_address(execution.ray_address) is not None:
                    stack.enter_context(watching_head(command))
                state = SearchState(study, execution.retries, excluded, stop, hooks or Hooks())
                problem = _run_trials(job, task, execution, state)
                interrupted = stop.is_set()
    return outcome_of(study, job.trials, interrupted, problem=problem, excluded=excluded.lines, command=command)


def _run_trials(job: SearchJob, task: Task, execution: Execution, state: SearchState) -> str | None:
    """Run the missing trials; return why the search ended early, if it did.

    There is a new run of Tune whenever nodes are excluded.
    """
    wanted = request(execution.resources)
    at_once = _at_once(execution, wanted, state.excluded)
    worker = tune.with_parameters(
        TrialWorker,
        study_dir=str(job.study),
        ready=execution.ready,
        inputs=[ray.put((task.work, dict(task.shared)))],
        threads=execution.resources.cpu,
    )
    scheduler = make_scheduler(dataclasses.replace(job.scheduler, study=job.study))
    while True:
        watcher = Watcher(state, StudySearch(job, at_once, state.stop))
        placed = tune.with_resources(worker, state.excluded.around(wanted))
        missing, known = job.trials - len(finished_ids(job.study)), len(state.excluded)
        problem = _fit(placed, missing, state, watcher, scheduler)
        if problem is None and len(state.excluded) > known:
            problem = state.excluded.problem(wanted)
        if not watcher.postponed or problem is not None or state.stop.is_set():
            return problem


def _at_once(execution: Execution, wanted: Mapping[str, float], excluded: ExcludedNodes) -> Callable[[], int]:
    """Return a function that returns how many trials may run at once.

    Raises:
        MedcoreError: No machine fits a trial.
    """
    places = fitting(wanted)
    if execution.concurrency:
        return _always(execution.concurrency)
    return _always(places) if cluster_address(execution.ray_address) is None else _one_ahead(wanted, excluded)


def _always(count: int) -> Callable[[], int]:
    return lambda: count


def _one_ahead(wanted: Mapping[str, float], excluded: ExcludedNodes) -> Callable[[], int]:
    """Return a function that returns one trial more than the nodes hold.

    It counts nodes once a second.

    The additional trial makes a cluster grow, and is the first one of a node that joins. The sampler draws it without
    the latest rows.
    """
    count, next_look = 0, 0.0

    def at_once() -> int:
        nonlocal count, next_look
        if time.monotonic() >= next_look:
            count, next_look = excluded.room(wanted) + 1, time.monotonic() + 1.0
        return count

    return at_once


def _fit(
    worker: Any, missing: int, state: SearchState, watcher: Watcher, scheduler: TrialScheduler | None
) -> str | None:
    """Run `missing` trials in one run of Tune; return why it ended early, if it did."""
    searcher = watcher.searcher
    tuner = tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=None if scheduler is None else RecordingScheduler(scheduler, watcher.on_stop),
            num_samples=missing,
            reuse_actors=True,
            trial_dirname_creator=trial_id_of,
        ),
        run_config=tune.RunConfig(
            name=datetime.now(UTC).strftime("run-%Y%m%dT%H%M%S.%f"),
            storage_path=str(state.study / "ray"),
            failure_config=tune.FailureConfig(max_failures=state.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (RayError, tune.TuneError) as error:
        return searcher.problem or (None if watcher.stopped else brief(error, last=200))
    except OSError as error:  # Tune's own files on a full disk
        return searcher.problem or str(error)
    return searcher.problem


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets.

    A second signal interrupts as usual. Signals reach only the main thread.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request_stop(number: int, frame: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()
