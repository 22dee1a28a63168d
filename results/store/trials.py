"""A study on disk: one folder a trial while it runs, two Parquet tables when it is done.

    STUDY/study.json                      see `results.store.study_info`
    STUDY/trials/<trial_id>/row.json      one flat object; its presence means that the trial has finished
    STUDY/trials/<trial_id>/images.parquet, phases.json
    STUDY/trials.parquet, images.parquet  the same, all trials; written by `compact`
    STUDY/held_out/                       figures of exported models, see `results.store.held_out`
    STUDY/latency.json                    measured time and memory; joins the table that `read_study` gives

A repeat is a trial of its own in all these files. `read_study` and `read_images` merge the runs of a repeated trial.

Every file appears by rename, so a killed writer leaves a `*.tmp` or nothing. Write a trial's row last.

A trial has finished if it has a row: in its folder or, if that is gone, in `trials.parquet`. The search too finds out
here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from results.stats.objectives import Objective
from results.stats.old_words import row_of_today
from results.stats.pareto import front_table
from results.stats.uncertainty import with_intervals
from results.store.files import read_json, write_json
from results.store.held_out import check_image_columns, read_measurements, report_columns
from results.store.latency import latest, read_latency, trial_columns
from results.store.merge import merged_images, merged_rows, run_ids
from results.store.tables import FlatRow, frame, read_table, write_table
from results.store.trial_row import IDENTITY, REQUIRED, TrialRow, is_folder_name, problem_of

_MEND_ROW = "delete this file; unless trials.parquet has the row, --resume then runs the trial again"
_MEND_TABLE = "restore it from a copy, or delete it if the study's folder `trials` is there"
_MEND_IMAGES = "restore it from a copy, or delete it to go without the trial's single images"
_IMAGE_COLUMNS = ("trial_id", "dataset", "name")


def trial_folder(study: Path, trial_id: str) -> Path:
    """Return the folder of a trial.

    Raises:
        ValueError: The id is no plain folder name.
    """
    if not is_folder_name(trial_id):
        raise ValueError(f"trial id {trial_id!r} is no folder name")
    return study / "trials" / trial_id


def checkpoint_file(study: Path, row: TrialRow) -> Path:
    """Return a trial's checkpoint, which may be gone.

    Raises:
        MedcoreError: The row names a place outside of the study.
    """
    path = study / (row.checkpoint or "none")
    if not path.resolve().is_relative_to(study.resolve()):
        raise MedcoreError(f"{study}: the row of trial {row.trial_id} names a checkpoint outside of the study: {path}")
    return path


def write_row(study: Path, row: TrialRow) -> None:
    """Write a finished trial's `row.json`, the last of its files.

    NaN and infinities become null.
    """
    write_json(trial_folder(study, row.trial_id) / "row.json", row.to_flat())


def write_images(study: Path, trial_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the metrics of every image of a trial (dataset, name, metrics).

    The trial's id becomes the first column.
    """
    write_table(trial_folder(study, trial_id) / "images.parquet", [{"trial_id": trial_id, **row} for row in rows])


def write_phases(study: Path, trial_id: str, phases: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics along the way, each {phase, step, name, value}."""
    write_json(trial_folder(study, trial_id) / "phases.json", list(phases))


def read_phases(study: Path, trial_id: str) -> list[dict[str, Any]]:
    """Read the metrics along the way of a trial; empty if it recorded none.

    Raises:
        MedcoreError: The file is corrupt.
    """
    path = trial_folder(study, trial_id) / "phases.json"
    if not path.is_file():
        return []
    phases = read_json(path, "delete it or restore it from a copy")
    if not isinstance(phases, list):
        raise MedcoreError(f"{path}: corrupt (expected a list); delete it or restore it")
    return phases


def finished_ids(study: Path) -> set[str]:
    """Return the trials that have a row; none in a folder that is no study (yet)."""
    compacted = {row["trial_id"] for row in _table_rows(study, only=REQUIRED)}
    return compacted | {path.parent.name for path in (study / "trials").glob("*/row.json")}


def read_row(study: Path, trial_id: str) -> TrialRow | None:
    """Read a trial's row, None while it has none.

    Raises:
        MedcoreError: Its file is corrupt.
    """
    path = trial_folder(study, trial_id) / "row.json"
    if path.is_file():
        return TrialRow.from_flat(_row_file(path))
    row = next((row for row in _table_rows(study) if row["trial_id"] == trial_id), None)
    return None if row is None else TrialRow.from_flat(row)


def all_rows(study: Path) -> list[TrialRow]:
    """Read the rows of all finished trials, each once, by number.

    There are none in a folder that is no study (yet).

    Raises:
        MedcoreError: A row file is corrupt or lies in another trial's folder, or a table is corrupt.
    """
    return [TrialRow.from_flat(row) for row in _flat_rows(study)]


def read_study(study: Path) -> pd.DataFrame:
    """Read all finished trials as a table, by number.

    A repeated trial has one row, with means over its runs. Trials of a study with repeats have all columns of
    `results.stats.repeats.mean_metrics`. Trials that were measured on held-out images have `report/METRIC` too, those
    that `medcore latency` measured have time and memory. A study without finished trials gives an empty table.

    Raises:
        MedcoreError: The folder is no study, or a file is corrupt.
    """
    return _with_times(study, merged_rows(_study_rows(study)))


def read_runs(study: Path) -> pd.DataFrame:
    """Read the table of `read_study` without merging: every repeat has a row of its own.

    Raises:
        MedcoreError: The folder is no study, or a file is corrupt.
    """
    return _with_times(study, _study_rows(study))


def read_images(study: Path, trial_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Read the metrics of every image, mean over the runs of each trial.

    Trials are all of `read_study` or some, in its order. The table is empty if no metrics were written.
    """
    rows = _study_rows(study)
    runs = {key: ids for key, ids in run_ids(rows).items() if trial_ids is None or key in trial_ids}
    wanted = {each for ids in runs.values() for each in ids}
    images = _all_images(study, [row for row in rows if row["trial_id"] in wanted])
    return frame(merged_images(images, runs), _IMAGE_COLUMNS)


def read_with_intervals(study: Path, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Read a study's trials `with_intervals`.

    Read only the image metrics of the front's members.
    """
    trials = read_study(study)
    members = {*front_table(trials, objectives)["trial_id"]}
    return with_intervals(trials, read_images(study, members), objectives)


def compact(study: Path) -> None:
    """Write `trials.parquet` and `images.parquet`.

    The tables hold every run once, sorted by number. Rows of an earlier `trials.parquet` whose folders were
    removed are kept.
    """
    rows = _study_rows(study)
    write_table(study / "images.parquet", _all_images(study, rows))
    write_table(study / "trials.parquet", rows)


def _with_times(study: Path, rows: Sequence[FlatRow]) -> pd.DataFrame:
    """Return rows as a table, with measured time and memory."""
    measured = trial_columns(latest(read_latency(study)))
    return frame([row | measured.get(row["trial_id"], {}) for row in rows], IDENTITY)


def _row_file(path: Path) -> FlatRow:
    row: FlatRow = read_json(path, _MEND_ROW)
    problem = problem_of(row) if isinstance(row, dict) else "expected an object"
    if problem is None and row["trial_id"] != path.parent.name:
        problem = f"it belongs to trial {row['trial_id']}"
    if problem:
        raise MedcoreError(f"{path}: corrupt ({problem}); {_MEND_ROW}")
    return row_of_today(row)


def _table_rows(study: Path, only: Sequence[str] | None = None) -> list[FlatRow]:
    """Read the rows of `trials.parquet`, whole or some columns; none if it is absent.

    The file may come from anywhere.
    """
    path = study / "trials.parquet"
    rows = read_table(path, REQUIRED, _MEND_TABLE, only) if path.is_file() else []
    for row in rows:
        if problem := problem_of(row):
            raise MedcoreError(f"{path}: corrupt (trial {row['trial_id']!r}: {problem}); {_MEND_TABLE}")
    return [row_of_today(row) for row in rows]


def _flat_rows(study: Path) -> list[FlatRow]:
    """Read what `all_rows` returns, as columns; row files win over the table."""
    rows = {row["trial_id"]: row for row in _table_rows(study)}
    for path in sorted((study / "trials").glob("*/row.json")):
        rows[path.parent.name] = _row_file(path)
    return sorted(rows.values(), key=lambda row: (row["number"], row["trial_id"]))


def _study_rows(study: Path) -> list[FlatRow]:
    """Read the rows of a folder that must be a study, with their held-out means."""
    if not any((study / name).exists() for name in ("trials.parquet", "study.json", "trials")):
        what = "no study (neither study.json nor trials)" if study.is_dir() else "no such folder"
        raise MedcoreError(f"{study}: {what}; give the folder that a search wrote")
    measurements = read_measurements(study)
    return [row | report_columns(row["trial_id"], row.get("finished"), measurements) for row in _flat_rows(study)]


def _image_rows(path: Path, mend: str) -> list[FlatRow]:
    """Read metrics of images, which may come from anywhere.

    Raises:
        MedcoreError: The file is no such table.
    """
    rows = read_table(path, _IMAGE_COLUMNS, mend)
    try:
        check_image_columns(frame(rows, _IMAGE_COLUMNS))
    except ValueError as error:
        raise MedcoreError(f"{path}: corrupt ({error}); {mend}") from None
    return rows


def _all_images(study: Path, rows: Sequence[FlatRow]) -> list[FlatRow]:
    """Read image rows in the order of the trials.

    The rows come from the trial's own file or the compacted table.
    """
    own = {row["trial_id"]: trial_folder(study, row["trial_id"]) / "images.parquet" for row in rows}
    own = {trial_id: path for trial_id, path in own.items() if path.is_file()}
    old: dict[str, list[FlatRow]] = {}
    # the table of a long study takes a second to read, so only if it is needed
    if len(own) < len(rows) and (study / "images.parquet").is_file():
        for image in _image_rows(study / "images.parquet", _MEND_TABLE):
            old.setdefault(image["trial_id"], []).append(image)
    images: list[FlatRow] = []
    for trial_id in (row["trial_id"] for row in rows):
        if trial_id in own:
            images += _image_rows(own[trial_id], _MEND_IMAGES)
        else:
            images += old.get(trial_id, [])
    return images
