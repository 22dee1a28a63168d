"""A study's own MLflow database after the study has moved: its files are where the study is.

MLflow stores absolute addresses of its files. A moved study would go on writing into its old place, and a copy into the
place of the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medcore.errors import TrackingError, brief
from search.tracking.note import ARTIFACTS, FILE

#: Columns with addresses of files.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def settle(database: Path) -> None:
    """Let a study's own database name its files where they are now.

    Only addresses of a folder `mlartifacts` change, and they change to the one next to the database. Nothing is done to
    a database that is no study's own.

    Args:
        database: The SQLite file.

    Raises:
        TrackingError: The database cannot be written or read.
    """
    if not database.is_file() or not (database.parent / FILE).is_file():
        return
    try:
        with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            connection.execute("PRAGMA trusted_schema = OFF")  # it may come from someone else
            for table, column in _COLUMNS:
                _settle_column(connection, database.absolute().parent, table, column)
    except sqlite3.Error as error:
        raise TrackingError(
            f"{database}: it cannot be written that the study has moved ({brief(error, first=120)}); make the study "
            "writable, or send it elsewhere with --tracking-uri"
        ) from None


def _settle_column(connection: sqlite3.Connection, study: Path, table: str, column: str) -> None:
    if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
        return  # another version of MLflow
    for (address,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
        new = _here(address, study)
        if new is not None:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, address))


def _here(address: object, study: Path) -> str | None:
    """Return the address of the same files in the study's folder; None if it is no address of files or is right."""
    if not isinstance(address, str):
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    steps = Path(unquote(parts.path) if parts.scheme else address).parts
    if ARTIFACTS not in steps or ".." in steps:
        return None
    below = steps[len(steps) - steps[::-1].index(ARTIFACTS) :]
    new = study.joinpath(ARTIFACTS, *below)
    return None if Path(*steps) == new else new.as_uri()
