"""A study on disk: one folder a trial while it runs, two Parquet tables when it is done.

    STUDY/study.json                      name, objectives, reference point, metrics of the dense model
    STUDY/trials/<trial_id>/row.json      one flat object; its presence means that the trial has finished
    STUDY/trials/<trial_id>/images.parquet, phases.json
    STUDY/trials.parquet, images.parquet  the same, all trials; written by `compact`
    STUDY/held_out/                       figures of exported models, see `results.store.held_out`
    STUDY/latency.json                    measured time and memory; joins the table that `read_study` gives

Every file appears by rename, so a killed writer leaves a `*.tmp` or nothing. Write a trial's row last.

A trial has finished if it has a row: in its folder or, where that is gone, in `trials.parquet`. Everything that asks,
the search itself included, asks here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from medcore.errors import MedcoreError
from results.stats.pareto import Objective, front_table, sign
from results.stats.uncertainty import with_intervals
from results.store.files import read_json, write_by_rename
from results.store.held_out import read_measurements, report_columns
from results.store.latency import dense_columns, latest, read_latency, trial_columns

Row = dict[str, Any]

REQUIRED = ("trial_id", "number", "status")
STATUSES = ("done", "failed")
COLUMNS = (*REQUIRED, "reason", "seed", "origin")
_AS_JSON = {b"medcore": b"json"}
_MEND_ROW = "delete this file; unless trials.parquet has the row, --resume then runs the trial again"
_MEND_TABLE = "restore it from a copy, or delete it if the study's folder `trials` is there"
_MEND_IMAGES = "restore it from a copy, or delete it to go without the trial's single images"
_IMAGE_COLUMNS = ("trial_id", "dataset", "name")


class StudyInfo(TypedDict):
    """`reference`: the hypervolume's, in natural sign. `dense`: metrics of the unpruned model.

    `widths`: heads and MLP channels of a dense block.
    """

    name: str
    objectives: list[Objective]
    reference: dict[str, float]
    dense: dict[str, float]
    widths: dict[str, int]


def write_study(study: Path, info: Mapping[str, Any]) -> None:
    """Write `study.json` (fields of `StudyInfo`; further ones are kept).

    Raises `MedcoreError` for a missing or wrong field.
    """
    _check_info(info, str(study / "study.json"))
    _write_json(study / "study.json", info)


def read_study_info(study: Path) -> StudyInfo:
    """`study.json`; the dense model's time and memory, where they were measured, are among its metrics.

    Raises `MedcoreError` if the folder is no study or the file lacks a field.
    """
    path = study / "study.json"
    if not path.is_file():
        raise MedcoreError(f"{study}: no study (study.json is missing); give the folder that a search wrote")
    info = read_json(path)
    _check_info(info, str(path))
    info["dense"] |= dense_columns(latest(read_latency(study)))
    return cast(StudyInfo, info)


def trial_folder(study: Path, trial_id: str) -> Path:
    """Folder of a trial. Raises `ValueError` for an id that is no plain folder name."""
    if not _is_folder_name(trial_id):
        raise ValueError(f"trial id {trial_id!r} is no folder name")
    return study / "trials" / trial_id


def checkpoint_file(study: Path, row: Mapping[str, Any]) -> Path:
    """A trial's checkpoint, which may be gone. Raises `MedcoreError` if the row names a place outside of the study."""
    path = study / str(row.get("checkpoint") or "none")
    if not path.resolve().is_relative_to(study.resolve()):
        raise MedcoreError(
            f"{study}: the row of trial {row.get('trial_id')} names a checkpoint outside of the study: {path}"
        )
    return path


def write_row(study: Path, row: Mapping[str, Any]) -> None:
    """Write a finished trial's `row.json`; last of its files.

    NaN and infinities become null, as JSON has neither.
    Raises `ValueError` if trial_id, number or status ("done" | "failed") is missing or wrong.
    """
    if problem := _row_problem(row):
        raise ValueError(f"trial row: {problem}")
    _write_json(trial_folder(study, row["trial_id"]) / "row.json", row)


def write_images(study: Path, trial_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Per-image metrics (dataset, name, metrics) of one trial; the trial's id becomes the first column."""
    table = _table([{"trial_id": trial_id, **row} for row in rows])
    write_by_rename(trial_folder(study, trial_id) / "images.parquet", _parquet(table))


def write_phases(study: Path, trial_id: str, phases: Sequence[Mapping[str, Any]]) -> None:
    """Metrics along the way, each {phase, step, name, value}."""
    _write_json(trial_folder(study, trial_id) / "phases.json", list(phases))


def read_phases(study: Path, trial_id: str) -> list[Row]:
    """Phase metrics of a trial; empty if it recorded none."""
    path = trial_folder(study, trial_id) / "phases.json"
    if not path.is_file():
        return []
    phases = read_json(path, "delete it or restore it from a copy")
    if not isinstance(phases, list):
        raise MedcoreError(f"{path}: corrupt (expected a list); delete it or restore it")
    return phases


def finished_ids(study: Path) -> set[str]:
    """Trials that have a row; none in a folder that is no study (yet)."""
    compacted = {row["trial_id"] for row in _table_rows(study, only=REQUIRED)}
    return compacted | {path.parent.name for path in (study / "trials").glob("*/row.json")}


def read_row(study: Path, trial_id: str) -> Row | None:
    """A trial's row, None while it has none. Raises `MedcoreError` if its file is corrupt."""
    path = trial_folder(study, trial_id) / "row.json"
    if path.is_file():
        return _row_file(path)
    return next((row for row in _table_rows(study) if row["trial_id"] == trial_id), None)


def all_rows(study: Path) -> list[Row]:
    """Rows of all finished trials, each once, by number; none in a folder that is no study (yet).

    Raises `MedcoreError` naming a row file that is corrupt or lies in another trial's folder, or a corrupt table.
    """
    rows = {row["trial_id"]: row for row in _table_rows(study)}
    for path in sorted((study / "trials").glob("*/row.json")):
        rows[path.parent.name] = _row_file(path)
    return sorted(rows.values(), key=_place)


def read_study(study: Path) -> pd.DataFrame:
    """All finished trials as a table, by number; those that were measured on held-out images have `report/METRIC` too.

    Time and memory are there for those that `medcore latency` has measured.

    A study without finished trials gives an empty table. Raises `MedcoreError` for a folder that is no study, and
    where `all_rows` does.
    """
    measured = trial_columns(latest(read_latency(study)))
    return _frame([row | measured.get(row["trial_id"], {}) for row in _study_rows(study)])


def read_images(study: Path, trial_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Per-image metrics of all finished trials or of some, in the order of `read_study`; empty if none were written."""
    rows = [row for row in _study_rows(study) if trial_ids is None or row["trial_id"] in trial_ids]
    return _frame(_all_images(study, rows), columns=_IMAGE_COLUMNS)


def compact(study: Path) -> None:
    """Write `trials.parquet` and `images.parquet`: every finished trial once, sorted by number.

    Rows of an earlier `trials.parquet` whose folders were removed are kept.
    """
    rows = _study_rows(study)
    images = _all_images(study, rows)
    write_by_rename(study / "images.parquet", _parquet(_table(images)))
    write_by_rename(study / "trials.parquet", _parquet(_table(rows)))


def _row_file(path: Path) -> Row:
    row = read_json(path, _MEND_ROW)
    problem = _row_problem(row) if isinstance(row, dict) else "expected an object"
    if problem is None and row["trial_id"] != path.parent.name:
        problem = f"it belongs to trial {row['trial_id']}"
    if problem:
        raise MedcoreError(f"{path}: corrupt ({problem}); {_MEND_ROW}")
    return cast(Row, row)


def _table_rows(study: Path, only: Sequence[str] | None = None) -> list[Row]:
    """Rows of `trials.parquet`, whole or some columns; none where it is absent. It may come from somebody else."""
    path = study / "trials.parquet"
    rows = _read_parquet(path, REQUIRED, only) if path.is_file() else []
    for row in rows:
        if problem := _row_problem(row):
            raise MedcoreError(f"{path}: corrupt (trial {row['trial_id']!r}: {problem}); {_MEND_TABLE}")
    return rows


def _study_rows(study: Path) -> list[Row]:
    if not any((study / name).exists() for name in ("trials.parquet", "study.json", "trials")):
        what = "no study (neither study.json nor trials)" if study.is_dir() else "no such folder"
        raise MedcoreError(f"{study}: {what}; give the folder that a search wrote")
    measurements = read_measurements(study)
    return [row | report_columns(row, measurements) for row in all_rows(study)]


def _all_images(study: Path, rows: Sequence[Row]) -> list[Row]:
    """Image rows in the order of the trials: its own file, or the compacted table."""
    own = {row["trial_id"]: trial_folder(study, row["trial_id"]) / "images.parquet" for row in rows}
    own = {trial_id: path for trial_id, path in own.items() if path.is_file()}
    old: dict[str, list[Row]] = {}
    # the table of a long study takes a second to read, so only where it is needed
    if len(own) < len(rows) and (study / "images.parquet").is_file():
        for image in _read_parquet(study / "images.parquet", _IMAGE_COLUMNS):
            old.setdefault(image["trial_id"], []).append(image)
    images: list[Row] = []
    for trial_id in (row["trial_id"] for row in rows):
        images += (
            _read_parquet(own[trial_id], _IMAGE_COLUMNS, mend=_MEND_IMAGES)
            if trial_id in own
            else old.get(trial_id, [])
        )
    return images


def _place(row: Row) -> tuple[int, str]:
    return row["number"], row["trial_id"]


def _row_problem(row: Mapping[str, Any]) -> str | None:
    if missing := [key for key in REQUIRED if row.get(key) is None]:
        return f"{', '.join(missing)} is missing"
    if not isinstance(row["trial_id"], str) or not isinstance(row["number"], (int, np.integer)):
        return "trial_id must be text and number an integer"
    if not _is_folder_name(row["trial_id"]):
        return "trial_id is no folder name"
    return None if row["status"] in STATUSES else f"status '{row['status']}' is none of {', '.join(STATUSES)}"


def _is_folder_name(trial_id: str) -> bool:
    return bool(trial_id) and not trial_id.startswith(".") and Path(trial_id).name == trial_id


def _check_info(info: Any, where: str) -> None:
    fields = {"name": str, "objectives": list, "reference": dict, "dense": dict, "widths": dict}
    for field, kind in fields.items():
        if not isinstance(info, Mapping) or not isinstance(info.get(field), kind):
            raise MedcoreError(f"{where}: field {field} is missing or wrong; a search writes this file")
    for objective in info["objectives"]:
        if not isinstance(objective, Mapping) or not {"name", "direction"} <= objective.keys():
            raise MedcoreError(f"{where}: an objective needs a name and a direction")
        sign(objective["direction"])
    wanted = {
        "reference": [objective["name"] for objective in info["objectives"]],
        "dense": [objective["name"] for objective in info["objectives"]],
        "widths": ["heads", "channels"],
    }
    for field, keys in wanted.items():
        if lacking := [str(key) for key in keys if not _is_finite(info[field].get(key))]:
            raise MedcoreError(f"{where}: field {field} holds no number for {', '.join(lacking)}; a search writes it")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _frame(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Absent keys and nulls alike become pandas' missing value, so that both sources give equal tables."""
    names = list(dict.fromkeys([*(columns if not rows else ()), *(key for row in rows for key in row)]))
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})


def _table(rows: Sequence[Row]) -> pa.Table:
    """Arrow table; a column that mixes types or holds objects is kept as JSON text, and marked so."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    fields, arrays = [], []
    for name in names:
        values = [_plain(row.get(name)) for row in rows]
        try:
            if any(isinstance(value, dict) for value in values):
                raise pa.ArrowInvalid("objects have no common shape")
            array, metadata = pa.array(values), None
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            coded = [None if value is None else json.dumps(value) for value in values]
            array, metadata = pa.array(coded, pa.string()), _AS_JSON
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _read_parquet(
    path: Path, required: Sequence[str], only: Sequence[str] | None = None, mend: str = _MEND_TABLE
) -> list[Row]:
    """Rows of a table, which must have columns `required` unless it is empty; `only` some columns of it."""
    try:
        file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
        if file.metadata.num_rows and (missing := [name for name in required if name not in file.schema_arrow.names]):
            raise MedcoreError(f"{path}: corrupt (no column {', '.join(missing)}); {mend}")
        table = file.read(columns=only and list(only))
        coded = [field.name for field in table.schema if (field.metadata or {}).get(b"medcore") == b"json"]
        rows = cast(list[Row], table.to_pylist())
        for row in rows:
            row.update({name: json.loads(row[name]) for name in coded if row[name] is not None})
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise MedcoreError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return rows


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as Python values, paths as text, non-finite floats as None."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _write_json(path: Path, value: Any) -> None:
    write_by_rename(path, (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode())


def read_with_intervals(study: Path, objectives: Sequence[Objective]) -> pd.DataFrame:
    """A study's trials `with_intervals`; of its images only those of the front are read."""
    trials = read_study(study)
    members = {*front_table(trials, objectives)["trial_id"]}
    return with_intervals(trials, read_images(study, members), objectives)
