"""The search itself: Ray Tune runs trials, rows on disk are the result, and a stopped search goes on from them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from medcore.errors import MedcoreError
from results.store.trials import Row, all_rows, finished_ids
from search.base.lock import only_driver
from search.base.objectives import Objective
from search.driver.left_out import LeftOut
from search.driver.searcher import SamplerSettings, Space, StudySearch
from search.driver.watcher import Begun, Watcher
from search.nodes.probe import Ready
from search.nodes.session import Resources, cluster_address, connected, fitting, one_line, request, watching_head
from search.trials.ledger import all_issued
from search.trials.worker import TrialWorker, Work


@dataclass(frozen=True)
class Outcome:
    """How a search ended. `message`: one line for people, which says why and what to do if trials are missing."""

    done: int
    failed: int
    wanted: int
    interrupted: bool
    message: str

    @property
    def complete(self) -> bool:
        return self.done + self.failed >= self.wanted


def run_search(
    study_dir: Path,
    space: Space,
    warm_starts: Sequence[Mapping[str, Any]],
    objectives: Sequence[Objective],
    trials: int,
    trainable: Work,
    *,
    shared: Mapping[str, Any] | None = None,
    ready: Ready | None = None,
    resources: Resources | None = None,
    concurrency: int | None = None,
    sampler: str = "tpe",
    seed: int = 0,
    retries: int = 3,
    ray_address: str | None = None,
    resume: bool = False,
    resume_command: str | None = None,
    on_row: Callable[[Row], None] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a study until `trials` rows exist. Ctrl-C and SIGTERM end it early and cleanly.

    Args:
        trainable: `trainable(trial, **shared) -> row`, run in worker processes; it writes the row itself.
        shared: big read-only inputs, put into the object store once and mapped by every worker.
        ready: asked once in every worker process before its first trial; a node with a reason why it should run none
            costs no trial and is left out, unless there is no other or there are too many such nodes.
        sampler, seed: see `search.driver.searcher.SamplerSettings`.
        concurrency: trials at once; by default as many as the resources allow, those of nodes that join later too.
        retries: how often a trial is begun again after its worker process has died, before it counts as failed; nodes
            that die do not count.
        ray_address: a running cluster (default: `RAY_ADDRESS`, else a Ray of this process's own).
        resume_command: what the user types to go on; part of messages.
        on_row, on_start: called in this process when a trial has ended (with its row) or starts (with its id).

    Raises:
        MedcoreError: the study exists and `resume` is false, another driver holds it, or no machine fits a trial.
    """
    study_dir = study_dir.absolute()
    command = resume_command or f"medcore search {study_dir / 'config.yaml'} --resume"
    resources = resources or Resources()
    with only_driver(study_dir):
        if all_issued(study_dir) and not resume:
            raise MedcoreError(
                f"{study_dir}: this study has trials already; go on with it by --resume or use another --name"
            )
        settings = SamplerSettings(sampler, seed)
        problem, interrupted, left_out = None, False, LeftOut(ready)
        if len(finished_ids(study_dir)) < trials:
            # Ray installs a SIGTERM handler of its own when it starts, so ours come after it
            with connected(ray_address, resources), _stop_signals() as stop, ExitStack() as stack:
                wanted = request(resources)
                places = fitting(wanted)
                if cluster_address(ray_address) is None:
                    at_once = _always(concurrency or places)
                else:
                    at_once = _always(concurrency) if concurrency else _one_ahead(wanted, left_out)
                    stack.enter_context(watching_head(command))
                inputs = [ray.put((trainable, dict(shared or {})))]
                worker = tune.with_parameters(TrialWorker, study_dir=str(study_dir), ready=ready, inputs=inputs)
                begun = Begun()
                begun_again = True
                while begun_again:
                    search = StudySearch(study_dir, space, objectives, warm_starts, settings, trials, at_once, stop)
                    watcher = Watcher(study_dir, search, stop, begun, left_out, retries, on_row, on_start)
                    placed = tune.with_resources(worker, left_out.around(wanted))
                    missing, known = trials - len(finished_ids(study_dir)), len(left_out)
                    problem = _fit(study_dir, placed, missing, retries, watcher)
                    if problem is None and len(left_out) > known:
                        problem = left_out.problem(wanted)
                    begun_again = watcher.postponed and problem is None and not stop.is_set()
                interrupted = stop.is_set()
    return _outcome(study_dir, trials, interrupted, problem, left_out.lines, command)


def _always(count: int) -> Callable[[], int]:
    return lambda: count


def _one_ahead(wanted: Mapping[str, float], left_out: LeftOut) -> Callable[[], int]:
    """As many trials as the nodes hold, and one: it makes a cluster grow, and is what a node that joins is given.

    The sampler draws that one without the latest rows. Nodes are counted once a second.
    """
    count, again = 0, 0.0

    def at_once() -> int:
        nonlocal count, again
        if time.monotonic() >= again:
            count, again = left_out.room(wanted) + 1, time.monotonic() + 1.0
        return count

    return at_once


def _fit(study_dir: Path, worker: Any, missing: int, retries: int, watcher: Watcher) -> str | None:
    """Run `missing` trials; returns why it ended early, if it did."""
    tuner = tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=watcher.search,
            num_samples=missing,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
        ),
        run_config=tune.RunConfig(
            name=datetime.now(UTC).strftime("run-%Y%m%dT%H%M%S.%f"),
            storage_path=str(study_dir / "ray"),
            failure_config=tune.FailureConfig(max_failures=retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (RayError, tune.TuneError) as error:
        return watcher.search.problem or (None if watcher.stopped else one_line(error))
    except OSError as error:  # Tune's own bookkeeping on a full disk
        return watcher.search.problem or str(error)
    return watcher.search.problem


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event, a second one interrupts as usual. Main thread only."""
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


def _outcome(
    study_dir: Path, trials: int, interrupted: bool, problem: str | None, left_out: Sequence[str], command: str
) -> Outcome:
    rows = all_rows(study_dir)
    done = sum(row["status"] == "done" for row in rows)
    failed = len(rows) - done
    count = f"{done} trials done, {failed} failed"
    nodes = "".join(f"; left out was {line}" for line in left_out if line not in (problem or ""))
    if len(rows) >= trials:
        message = count + nodes
    else:
        why = "stopped by request" if interrupted else f"ended early ({problem or 'Ray Tune stopped without a reason'})"
        message = f"{why}: {count}, {trials - len(rows)} of {trials} missing{nodes}; go on with: {command}"
    return Outcome(done, failed, trials, interrupted and len(rows) < trials, message)
