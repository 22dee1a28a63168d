"""MLflow's empty database, made once for all processes of a test run.

MLflow makes a database by some seventy migrations, which take seconds, and reads the files of all of them again for
every store that it opens.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def quicken(folder: Path) -> None:
    """Let the MLflow of this process copy the database in `folder`, and read its migrations once.

    It does nothing in a process that has not imported MLflow.

    Args:
        folder: where all processes of the test run keep the database.
    """
    if "mlflow" not in sys.modules:
        return
    utils = importlib.import_module("mlflow.store.db.utils")
    if not isinstance(utils._initialize_tables, functools.partial):
        utils._initialize_tables = functools.partial(_copied, folder=folder, migrate=utils._initialize_tables)
        utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)


def _copied(engine: Any, folder: Path, migrate: Callable[[Any], None]) -> None:
    """Fill the database of an engine, as `migrate` does."""
    if engine.url.get_backend_name() != "sqlite":
        migrate(engine)
        return
    source = sqlite3.connect(_migrated(folder, migrate))
    connection = engine.raw_connection()
    try:
        source.backup(connection.driver_connection)
    finally:
        connection.close()
        source.close()


def _migrated(folder: Path, migrate: Callable[[Any], None]) -> Path:
    """Return the file of an empty database, which the first process makes."""
    import sqlalchemy

    file = folder / "migrated.db"
    with (folder / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            part = folder / "migrated.part"
            part.unlink(missing_ok=True)
            engine = sqlalchemy.create_engine(f"sqlite:///{part}")
            migrate(engine)
            engine.dispose()
            part.rename(file)
    return file
