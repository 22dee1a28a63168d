"""Remove weights that no rule can choose any more, while a search runs (`search.keep: front`).

A rule chooses from the front of the candidates' means (`results.stats.select`). A repeat changes the mean of one
candidate. So a candidate with more dominators than there are repeats left keeps one whose values do not change any
more, and stays off the front. Until then its weights stay. A candidate whose own repeat is running may still become
better and keeps its weights; once off the front, no further repeat of it is issued. Where finalists average, the
runs of repeated candidates keep theirs until all trials have ended.

Nothing but the files themselves says what was removed. A search that is killed at any point removes the rest later.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medcore.errors import MedcoreError
from results.stats.columns import DENSE, is_average
from results.stats.objectives import Objective, names_of
from results.stats.pareto import to_losses
from results.stats.repeats import mean_metrics, runs_of
from results.store.held_out import read_measurements
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, trial_folder
from search.trials.files import CHECKPOINT
from search.trials.ledger import IssuedTrial, all_issued

logger = logging.getLogger(__name__)


def removable(rows: Sequence[TrialRow], objectives: Sequence[Objective], repeats_left: int) -> list[str]:
    """Return the trials whose weights no rule can choose any more.

    These are repeats, for which the first run stands, and candidates with more dominators than repeats are left. The
    dense model stays. So does a candidate without finite values, which nothing dominates.

    Args:
        rows: The rows of all trials that ended.
        objectives: What is optimised.
        repeats_left: Trials that still repeat a candidate and have not ended.
    """
    groups = runs_of(rows)
    repeats = [run.trial_id for runs in groups for run in runs[1:]]
    if not groups:
        return repeats
    names = names_of(objectives)
    means = [mean_metrics([{name: run.metrics.get(name) for name in names} for run in runs]) for runs in groups]
    values = [[np.nan if mean[name] is None else mean[name] for name in names] for mean in means]
    dominators = _dominators(to_losses(values, objectives))
    dominated = [
        runs[0].trial_id
        for runs, count in zip(groups, dominators, strict=True)
        if count > repeats_left and runs[0].origin != DENSE
    ]
    return repeats + dominated


def _dominators(losses: np.ndarray) -> list[int]:
    """Return how many rows of losses (N, K) dominate each row; rows that are not finite take no part."""
    finite = np.isfinite(losses).all(axis=1)
    points = losses[finite]
    counts = np.zeros(len(losses), dtype=int)
    # one row at a time, because (N, N, K) does not fit into memory for long studies
    counts[finite] = [int(((points <= own).all(axis=1) & (points < own).any(axis=1)).sum()) for own in points]
    return [int(count) for count in counts]


class Weights:
    """The weights of a study's trials while its search runs."""

    def __init__(self, study: Path, objectives: Sequence[Objective], finalists: int, *, averages: bool = False) -> None:
        """Read the rows of a study, and remove what an earlier search has left.

        Args:
            study: The study's folder.
            objectives: What is optimised.
            finalists: How many trials of the whole search are repeats or averages.
            averages: Whether some are averages, which need the weights of repeated trials and their repeats.
        """
        self._study = study
        self._objectives = objectives
        self._finalists = finalists
        self._averages = averages
        self._rows = {row.trial_id: row for row in all_rows(study)}
        self._gone: set[str] = set()
        self.sweep()

    def ended(self, row: TrialRow) -> None:
        """Add the row of a trial that ended, and remove what is no longer needed."""
        self._rows[row.trial_id] = row
        self.sweep()

    def sweep(self, *, complete: bool = False) -> None:
        """Remove the weights of trials that no rule can choose any more.

        Args:
            complete: Whether all trials have ended, so that no repeat is left.
        """
        rows = list(self._rows.values())
        ended = sum(row.repeats is not None or is_average(row.origin) for row in rows)
        left = 0 if complete else max(0, self._finalists - ended)
        if complete:  # a node that was cut off may have written its file after the row
            self._gone.clear()
        chosen = [name for name in removable(rows, self._objectives, left) if name not in self._gone]
        if chosen and not complete:
            issued = all_issued(self._study)
            running = [trial for trial in issued if trial.trial_id not in self._rows]
            wanted = self._to_average([trial for trial in issued if trial.repeats is not None])
            chosen = sorted({*chosen} - {trial.repeats for trial in running} - wanted)
        if not chosen:
            return
        try:
            measured = {each.trial_id for each in read_measurements(self._study)}
        except MedcoreError as error:  # a search does not end for want of space that it only saves
            logger.warning("no weights are removed: %s", error)
            return
        for trial_id in chosen:
            if trial_id not in measured and not (trial_folder(self._study, trial_id) / "finetune").exists():
                self._remove(trial_id)

    def _to_average(self, repeats: Sequence[IssuedTrial]) -> set[str]:
        """Return the runs whose weights a later trial may take the mean of."""
        if not self._averages:
            return set()
        return {run for trial in repeats for run in (trial.trial_id, str(trial.repeats))}

    def _remove(self, trial_id: str) -> None:
        """Remove a trial's checkpoint. A file that the system refuses to remove is named and stays."""
        # never by the row's own path, which could name another file
        path = trial_folder(self._study, trial_id) / CHECKPOINT
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be removed (%s)", path, error.strerror)
        self._gone.add(trial_id)
