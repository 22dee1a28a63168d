"""Files of a study from plain values and back, as tests write them down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.store import study_info, trials
from results.store.trial_row import TrialRow

#: The description of a study with two objectives.
STUDY_INFO: dict[str, Any] = {
    "name": "polyps",
    "objectives": [
        {"name": "flops", "direction": "minimize"},
        {"name": "boundary_f1", "direction": "maximize"},
    ],
    "reference": {"flops": 972.08e9, "boundary_f1": 0.0},
    "dense": {"flops": 972.08e9, "boundary_f1": 0.71},
    "widths": {"heads": 12, "channels": 3072},
}


def write_row(study: Path, columns: Mapping[str, Any]) -> TrialRow:
    """Write the row of these columns, and return it as a trial's work does."""
    row = TrialRow.from_flat(columns)
    trials.write_row(study, row)
    return row


def read_columns(study: Path, trial_id: str) -> dict[str, Any] | None:
    """Return the columns of a trial's row, None while it has none."""
    row = trials.read_row(study, trial_id)
    return None if row is None else row.to_flat()


def all_columns(study: Path) -> list[dict[str, Any]]:
    """Return the columns of all finished trials, by number."""
    return [row.to_flat() for row in trials.all_rows(study)]


def write_study(study: Path, fields: Mapping[str, Any]) -> None:
    """Write `study.json` with these fields."""
    study_info.write_study(study, study_info.study_info(fields))
