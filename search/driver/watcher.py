"""Tune's events as a search sees them: workers that die, nodes that are unfit, trials that end, a user who stops it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune

from medcore.errors import StorageError
from results.store.trials import Row, write_row
from search.driver.left_out import LeftOut
from search.driver.searcher import StudySearch
from search.nodes.session import dead_nodes, one_line
from search.trials.attempt import Attempt, last_attempt
from search.trials.ledger import failed_row, read_issued, visible_row
from search.trials.worker import NODE, TROUBLE, UNFIT


@dataclass
class Begun:
    """When each trial was begun first, and how often, over all runs of Tune of one search.

    `mourned`: beginnings that ended with their node and were taken back.
    """

    first: dict[str, datetime] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    mourned: set[Attempt] = field(default_factory=set)

    def take_back(self, trial_id: str) -> None:
        """The last beginning was on a node that runs no trial."""
        self.tries[trial_id] -= 1
        if self.tries[trial_id] == 0:
            del self.first[trial_id]


class Watcher(tune.Callback):
    """Tune's events, seen from the study: rows for workers that died, news for the user, the stop request."""

    def __init__(
        self,
        study_dir: Path,
        search: StudySearch,
        stop: threading.Event,
        begun: Begun,
        left_out: LeftOut,
        retries: int,
        on_row: Callable[[Row], None] | None,
        on_start: Callable[[str], None] | None,
    ) -> None:
        self.search, self.stopped, self.postponed = search, False, False
        self._begun, self._retries = begun, retries
        self._left_out, self._known, self._looked = left_out, len(left_out), False
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
        result, trial_id = trial.last_result, trial.config["trial_id"]
        if why := result.get(UNFIT):
            self._left_out.add(result[NODE], why)
            self._begun.take_back(trial_id)
            self._postpone()
        if trouble := result.get(TROUBLE):
            self.search.end(trouble)
        self._tell(trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker died more often than it is given another try, or while it was got ready for this trial.

        In the second case Tune gives up at once, may say so several times, and counts more deaths than there were; the
        trial waits for the next run of Tune. The reason may be its node.
        """
        trial_id = trial.config["trial_id"]
        if trial_id in self._given_up:
            return
        self._given_up.add(trial_id)
        if visible_row(self._dir, trial_id) is None:
            tries, node_died = self._begun.tries, self._node_died(trial_id)
            if node_died or tries[trial_id] <= self._retries:
                if node_died:
                    tries[trial_id] -= 1
                elif not self._found_unfit():
                    tries[trial_id] += 1  # although it may not have begun: it must not be put off for ever
                self._postpone()
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

    def _postpone(self) -> None:
        """Leave a trial to the next run of Tune, which is at once where this one uses nodes that are to be left out."""
        self.postponed = True
        if len(self._left_out) > self._known:
            self.search.pause()

    def _found_unfit(self) -> bool:
        """Whether this run of Tune uses nodes that are to be left out; if none is known, all are asked, once."""
        if len(self._left_out) == self._known and not self._looked:
            self._looked = True
            self._left_out.look(self._stop)
        return len(self._left_out) > self._known

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


class Nudges:
    """Sends each trial's worker a call that does nothing, now and then.

    A worker closes a connection on which it was not heard for 20 s. While the network is away the driver is not told,
    and waits for an answer that cannot come until Ray looks after it, five to seven minutes later. A call on such a
    connection breaks it at once: Tune then takes the worker for dead and begins the trial again, which goes on from its
    last saved state. Ray's own setting for this (`grpc_client_keepalive_time_ms`) cannot be shortened: a worker takes
    many pings during a long call for abuse and hangs up.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._pause, self._next = seconds, time.monotonic() + seconds

    def send(self, trials: Iterable[Any]) -> None:
        """Nudge the workers of Tune's `trials` if it is time; they answer when their trial's step has ended."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None and not trial.is_finished():
                actor.__ray_ready__.remote()
