"""Rows as Parquet files and data frames; a column that mixes types or holds objects is kept as JSON text."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from medcore.errors import MedcoreError, brief
from results.store.files import plain, write_by_rename

FlatRow = dict[str, Any]

_AS_JSON = {b"medcore": b"json"}


def frame(rows: Sequence[FlatRow], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a data frame; without rows it has `columns`.

    Absent keys and nulls alike become pandas' missing value, so that row files and tables give equal frames.
    """
    names = list(dict.fromkeys([*(columns if not rows else ()), *(key for row in rows for key in row)]))
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})


def write_table(path: Path, rows: Sequence[FlatRow]) -> None:
    """Write rows as a Parquet file by rename.

    Raises:
        StorageError: The file cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(_arrow(rows), buffer, compression="zstd")
    write_by_rename(path, buffer.getvalue())


def read_table(path: Path, required: Sequence[str], mend: str, only: Sequence[str] | None = None) -> list[FlatRow]:
    """Read the rows of a table, which may come from anywhere.

    Args:
        path: The file.
        required: Columns that it must have, unless it is empty.
        mend: What to do about a file without them.
        only: Columns to read; by default all.

    Raises:
        MedcoreError: The file is no Parquet file, or lacks a required column.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
        if file.metadata.num_rows and (missing := [name for name in required if name not in file.schema_arrow.names]):
            raise MedcoreError(f"{path}: corrupt (no column {', '.join(missing)}); {mend}")
        table = file.read(columns=only and list(only))
        coded = [field.name for field in table.schema if (field.metadata or {}).get(b"medcore") == b"json"]
        rows = cast(list[FlatRow], table.to_pylist())
        for row in rows:
            row.update({name: json.loads(row[name]) for name in coded if row[name] is not None})
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException) as error:
        raise MedcoreError(f"{path}: not a readable Parquet file ({brief(error, first=200)})") from None
    return rows


def _arrow(rows: Sequence[FlatRow]) -> pa.Table:
    names = list(dict.fromkeys(key for row in rows for key in row))
    fields, arrays = [], []
    for name in names:
        values = [plain(row.get(name)) for row in rows]
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
