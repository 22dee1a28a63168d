"""Rows and images of a study with the runs of a repeated trial merged, as `results.stats.repeats` defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from results.stats.repeats import mean_images, mean_metrics, runs_of
from results.store.tables import FlatRow
from results.store.trial_row import TrialRow


def merged_rows(rows: Sequence[FlatRow]) -> list[FlatRow]:
    """Return a row for each candidate, and the rows of trials that are not done.

    A candidate has the row of the run that stands for it, with the mean metrics over all its runs. Rows of a study
    without repeats stay as they are.
    """
    groups = _groups(rows)
    merged = {runs[0].trial_id: mean_metrics([run.metrics for run in runs]) for runs in groups}
    absorbed = {run.trial_id for runs in groups for run in runs[1:]}
    return [row | merged.get(row["trial_id"], {}) for row in rows if row["trial_id"] not in absorbed]


def run_ids(rows: Sequence[FlatRow]) -> dict[str, list[str]]:
    """Return the runs of each trial of `merged_rows`, its own first, in their order."""
    runs = {group[0].trial_id: [run.trial_id for run in group] for group in _groups(rows)}
    absorbed = {run for group in runs.values() for run in group[1:]}
    ids = [row["trial_id"] for row in rows]
    return {trial_id: runs.get(trial_id, [trial_id]) for trial_id in ids if trial_id not in absorbed}


def merged_images(images: Sequence[FlatRow], runs: Mapping[str, Sequence[str]]) -> list[FlatRow]:
    """Return image rows of some trials, mean over the runs of each.

    Args:
        images: Rows of all runs.
        runs: Runs by trial, as `run_ids` returns them.
    """
    own: dict[str, list[FlatRow]] = {}
    for image in images:
        own.setdefault(image["trial_id"], []).append(image)
    merged: list[FlatRow] = []
    for trial_id, ids in runs.items():
        alone = own.get(trial_id, [])
        merged += alone if len(ids) == 1 else mean_images([own.get(each, []) for each in ids])
    return merged


def _groups(rows: Sequence[FlatRow]) -> list[list[TrialRow]]:
    """Return the runs of every candidate; none if no trial is repeated."""
    if not any(row.get("repeats") for row in rows):
        return []
    return runs_of([TrialRow.from_flat(row) for row in rows])
