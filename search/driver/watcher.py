"""Tune's events as a search sees them: workers that die, unfit nodes, trials that end, a user who stops the search."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from medcore.errors import StorageError, brief
from results.store.trial_row import TrialRow
from results.store.trials import write_row
from search.base.fidelities import shown_figures
from search.driver.excluded_nodes import ExcludedNodes
from search.driver.job import Hooks
from search.driver.keep_alive import KeepAlive
from search.driver.ray_internals import (
    error_of,
    failures_of,
    kill_workers,
    last_result_of,
    refund_failure,
    trial_id_of,
)
from search.driver.searcher import StudySearch
from search.nodes.session import dead_nodes
from search.trials.attempt import Attempt, last_attempt
from search.trials.files import remove_state
from search.trials.ledger import read_issued, visible_row


@dataclass
class StartCounts:
    """When each trial started first, and how often.

    The counts are over all runs of Tune of one search.

    Attributes:
        first: Time of the first start, by trial.
        tries: Number of starts, by trial.
        lost_with_node: Starts that ended with their node and were not counted.
    """

    first: dict[str, datetime] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    lost_with_node: set[Attempt] = field(default_factory=set)

    def count(self, trial_id: str) -> None:
        """Count a start."""
        self.first.setdefault(trial_id, datetime.now(UTC))
        self.tries[trial_id] += 1

    def undo(self, trial_id: str) -> None:
        """Undo the last start: its node was excluded, so it must not use up a retry."""
        self.tries[trial_id] -= 1
        if self.tries[trial_id] == 0:
            del self.first[trial_id]


@dataclass
class SearchState:
    """What one search knows over all its runs of Tune.

    Attributes:
        study: The study's folder.
        retries: How often a trial starts again after its worker died.
        excluded: Nodes that get no trials.
        stop: Set when the user wants the search to end.
        hooks: What the caller wants to know.
        starts: Starts of trials so far.
    """

    study: Path
    retries: int
    excluded: ExcludedNodes
    stop: threading.Event
    hooks: Hooks = field(default_factory=Hooks)
    starts: StartCounts = field(default_factory=StartCounts)


class Watcher(tune.Callback):
    """Handles the events of one run of Tune.

    It writes rows for lost trials, informs the caller, and stops on request.

    Attributes:
        searcher: Issues the trials.
        stopped: Whether this run ended because the user stopped the search.
        postponed: Whether a trial is left to the next run of Tune.
    """

    def __init__(self, state: SearchState, searcher: StudySearch) -> None:
        """Watch one run of Tune whose trials `searcher` issues."""
        self.searcher = searcher
        self.stopped = False
        self.postponed = False
        self._state = state
        self._starts = state.starts
        self._excluded = state.excluded
        self._known_excluded = len(state.excluded)
        self._asked_nodes = False
        self._failures: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._keep_alive = KeepAlive()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, because a search does not use `Tuner.restore`.

        Tune pickles its callbacks for it.
        """
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep connections alive, and stop on request.

        Tune calls this at least ten times a second.
        """
        self._keep_alive.send(trials)
        if not self._state.stop.is_set() or self.stopped:
            return
        self.stopped = True
        kill_workers(trials)
        raise tune.TuneError("stopped")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the start of a trial, unless a scheduler had paused it."""
        trial_id = trial_id_of(trial)
        if not self._was_paused(trial):
            self._refund_retry(trial)
            self._starts.count(trial_id)
        self._failures[trial_id] = failures_of(trial)
        self._state.hooks.on_start(trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on which phase of the trial comes next."""
        if following := result.get("following"):
            self._state.hooks.on_phase(trial_id_of(trial), str(following))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Act on the worker's last report, and pass the row on."""
        result, trial_id = last_result_of(trial), trial_id_of(trial)
        if why := result.get("unfit"):
            self._excluded.add(result["node"], why)
            self._starts.undo(trial_id)
            self._postpone()
        if trouble := result.get("trouble"):
            self.searcher.end(trouble)
        self._pass_row(trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the row of a trial whose worker died too often.

        A trial that may start again is left to the next run of Tune.

        Tune gives up at once if a worker dies while it is set up for the trial. It may report that several times, and
        counts more deaths than there were. The reason may be the worker's node.
        """
        trial_id = trial_id_of(trial)
        if trial_id in self._given_up:
            return
        self._given_up.add(trial_id)
        if visible_row(self._state.study, trial_id) is None:
            tries = self._starts.tries
            died_with_node = self._lost_with_node(trial_id)
            if died_with_node or tries[trial_id] <= self._state.retries:
                if died_with_node:
                    tries[trial_id] -= 1
                elif not self._found_unfit():
                    tries[trial_id] += 1  # although it may not have started: it must not be postponed for ever
                self._postpone()
                return
            error = brief(error_of(trial), last=200)
            if trial_id not in self._starts.first:  # no fault of the trial
                self.searcher.end(f"no worker could be got ready for a trial: {error}")
                return
            reason = f"worker process died {tries[trial_id]} times: {error}"
            self._write(TrialRow.failed(self._issued(trial_id), reason, self._starts.first[trial_id]))
        self._pass_row(trial_id)

    def on_stop(self, trial_id: str, phase: str) -> None:
        """Write the row of a trial that a scheduler stops after `phase`.

        A row that a worker wrote stays: an earlier one may have been cut off after it. The files from which the trial
        would continue are removed only if the row is on disk.
        """
        if visible_row(self._state.study, trial_id) is not None:
            return
        started = self._starts.first.get(trial_id, datetime.now(UTC))
        shown = shown_figures(self._state.study, trial_id)
        if self._write(TrialRow.stopped(self._issued(trial_id), phase, started, shown)):
            remove_state(self._state.study, trial_id)

    def _issued(self, trial_id: str) -> dict[str, Any]:
        return asdict(read_issued(self._state.study, trial_id))

    def _write(self, row: TrialRow) -> bool:
        """Write a row, or end the search if that is not possible.

        Returns:
            Whether the row is on disk.
        """
        try:
            write_row(self._state.study, row)
        except StorageError as problem:
            self.searcher.end(str(problem))
            return False
        return True

    def _postpone(self) -> None:
        """Defer a trial to the next run of Tune.

        This run ends if it uses nodes that are excluded by now.
        """
        self.postponed = True
        if len(self._excluded) > self._known_excluded:
            self.searcher.pause()

    def _found_unfit(self) -> bool:
        """Return whether this run of Tune uses nodes that are excluded by now.

        If none is known, ask all nodes once.
        """
        if len(self._excluded) == self._known_excluded and not self._asked_nodes:
            self._asked_nodes = True
            self._excluded.look(self._state.stop)
        return len(self._excluded) > self._known_excluded

    def _was_paused(self, trial: Any) -> bool:
        """Return whether this start follows a pause.

        The trial then started before in this run, and no worker died since.
        """
        trial_id = trial_id_of(trial)
        if self._failures.get(trial_id) != failures_of(trial):
            return False
        attempt = last_attempt(self._state.study, trial_id)
        return attempt is not None and attempt.node not in dead_nodes()

    def _refund_retry(self, trial: Any) -> None:
        """Refund a retry if the previous failure was caused by a lost node.

        Ray reports a lost node only after the failure.
        """
        trial_id = trial_id_of(trial)
        if self._starts.tries[trial_id] and self._lost_with_node(trial_id):
            self._starts.tries[trial_id] -= 1
            if failures_of(trial) > self._failures.get(trial_id, 0):  # Ray does not count nodes that were taken away
                refund_failure(trial)

    def _lost_with_node(self, trial_id: str) -> bool:
        """Return whether the node of the last start is gone. Each loss is reported once."""
        attempt = last_attempt(self._state.study, trial_id)
        if attempt is None or attempt in self._starts.lost_with_node or attempt.node not in dead_nodes():
            return False
        self._starts.lost_with_node.add(attempt)
        return True

    def _pass_row(self, trial_id: str) -> None:
        row = visible_row(self._state.study, trial_id)
        if row is not None:
            self._state.hooks.on_row(row)
