"""The search itself: Ray Tune runs trials, rows on disk are the result, and a stopped search goes on from them."""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from medcore.errors import MedcoreError, StorageError
from results.trials import Row, all_rows, finished_ids, write_row
from search.attempt import Attempt, last_attempt
from search.head_watch import watching_head
from search.ledger import all_issued, failed_row, only_driver, read_issued, visible_row
from search.nudges import Nudges
from search.objectives import Objective
from search.sampler import SamplerSettings, Space, StudySearch
from search.session import Resources, cluster_address, connected, dead_nodes, fitting, one_line, request
from search.worker import TROUBLE, Ready, TrialWorker, Work

logger = logging.getLogger(__name__)


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
        ready: asked once in every worker process before its first trial; a reason why its node should run none ends the
            search in one line that names the node, and costs no trial.
        sampler, seed: see `search.sampler.SamplerSettings`.
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
        problem, interrupted = None, False
        if len(finished_ids(study_dir)) < trials:
            # Ray installs a SIGTERM handler of its own when it starts, so ours come after it
            with connected(ray_address, resources), _stop_signals() as stop, ExitStack() as stack:
                wanted = request(resources)
                places = fitting(wanted)
                if cluster_address(ray_address) is None:
                    limit = concurrency or places
                else:
                    # Tune asks for one trial ahead of a free place where it is given no limit: that is what makes a
                    # cluster grow and what a node that joins is given, but the sampler draws it without the latest rows
                    limit = concurrency
                    stack.enter_context(watching_head(command))
                inputs = [ray.put((trainable, dict(shared or {})))]
                worker = tune.with_parameters(TrialWorker, study_dir=str(study_dir), ready=ready, inputs=inputs)
                begun = _Begun()
                begun_again = True
                while begun_again:
                    search = StudySearch(study_dir, space, objectives, warm_starts, settings, trials, stop)
                    watcher = _Watcher(study_dir, search, stop, begun, retries, on_row, on_start)
                    missing = trials - len(finished_ids(study_dir))
                    problem = _fit(study_dir, tune.with_resources(worker, wanted), missing, limit, retries, watcher)
                    begun_again = watcher.postponed and problem is None and not stop.is_set()
                interrupted = stop.is_set()
    return _outcome(study_dir, trials, interrupted, problem, command)


def _fit(study_dir: Path, worker: Any, missing: int, limit: int | None, retries: int, watcher: _Watcher) -> str | None:
    """Run `missing` trials, at most `limit` at once; returns why it ended early, if it did."""
    tuner = tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=watcher.search,
            num_samples=missing,
            max_concurrent_trials=None if limit is None else min(limit, missing),
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


@dataclass
class _Begun:
    """When each trial was begun first, and how often, over all runs of Tune of one search.

    `mourned`: beginnings that ended with their node and were taken back.
    """

    first: dict[str, datetime] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    mourned: set[Attempt] = field(default_factory=set)


class _Watcher(tune.Callback):
    """Tune's events, seen from the study: rows for workers that died, news for the user, the stop request."""

    def __init__(
        self,
        study_dir: Path,
        search: StudySearch,
        stop: threading.Event,
        begun: _Begun,
        retries: int,
        on_row: Callable[[Row], None] | None,
        on_start: Callable[[str], None] | None,
    ) -> None:
        self.search, self.stopped, self.postponed = search, False, False
        self._begun, self._retries = begun, retries
        self._dir, self._stop, self._on_row, self._on_start = study_dir, stop, on_row, on_start
        self._counted: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._nudges = Nudges()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a `Tuner.restore`, which is not used here."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune calls this at least ten times a second."""
        self._nudges.send(trials)
        if not self._stop.is_set() or self.stopped:
            return
        self.stopped = True
        for trial in trials:  # killed, or Tune would wait ten seconds for each to finish its step
            actor = trial.temporary_state.ray_actor
            if actor is not None and not trial.is_finished():
                ray.kill(actor)
        raise tune.TuneError("stopped")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial_id = trial.config["trial_id"]
        self._forgive(trial)
        self._begun.first.setdefault(trial_id, datetime.now(UTC))
        self._begun.tries[trial_id] += 1
        if self._on_start is not None:
            self._on_start(trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trouble := trial.last_result.get(TROUBLE):
            self.search.end(trouble)
        self._tell(trial.config["trial_id"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker died more often than it is given another try, or while it was got ready for this trial.

        In the second case Tune gives up at once, may say so several times, and counts more deaths than there were; the
        trial waits for the next run of Tune.
        """
        trial_id = trial.config["trial_id"]
        if trial_id in self._given_up:
            return
        self._given_up.add(trial_id)
        if visible_row(self._dir, trial_id) is None:
            tries, node_died = self._begun.tries, self._node_died(trial_id)
            if node_died or tries[trial_id] <= self._retries:
                # counted although it may not have begun: it must not be put off for ever
                tries[trial_id] += -1 if node_died else 1
                self.postponed = True
                return
            error = one_line(trial.get_error())
            if trial_id not in self._begun.first:  # no fault of the trial's
                self.search.end(f"no worker could be got ready for a trial: {error}")
                return
            reason = f"worker process died {tries[trial_id]} times: {error}"
            try:
                write_row(self._dir, failed_row(read_issued(self._dir, trial_id), reason, self._begun.first[trial_id]))
            except StorageError as problem:
                self.search.end(str(problem))
        self._tell(trial_id)

    def _forgive(self, trial: Any) -> None:
        """Take back the death before this start if it was the node's: only then it is known that the node is gone."""
        trial_id = trial.config["trial_id"]
        if self._begun.tries[trial_id] and self._node_died(trial_id):
            self._begun.tries[trial_id] -= 1
            if trial.num_failures > self._counted.get(trial_id, 0):  # Ray does not count nodes that were taken away
                trial.run_metadata.num_failures -= 1
        self._counted[trial_id] = trial.num_failures

    def _node_died(self, trial_id: str) -> bool:
        """Whether the node that the trial was begun on last is gone; each death is told once."""
        attempt = last_attempt(self._dir, trial_id)
        if attempt is None or attempt in self._begun.mourned or attempt.node not in dead_nodes():
            return False
        self._begun.mourned.add(attempt)
        return True

    def _tell(self, trial_id: str) -> None:
        row = visible_row(self._dir, trial_id)
        if row is not None and self._on_row is not None:
            self._on_row(row)


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


def _outcome(study_dir: Path, trials: int, interrupted: bool, problem: str | None, command: str) -> Outcome:
    rows = all_rows(study_dir)
    done = sum(row["status"] == "done" for row in rows)
    failed = len(rows) - done
    count = f"{done} trials done, {failed} failed"
    if len(rows) >= trials:
        message = count
    else:
        why = "stopped by request" if interrupted else f"ended early ({problem or 'Ray Tune stopped without a reason'})"
        message = f"{why}: {count}, {trials - len(rows)} of {trials} missing; go on with: {command}"
    return Outcome(done, failed, trials, interrupted and len(rows) < trials, message)
