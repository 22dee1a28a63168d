"""Addresses in the database of a study that has moved."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from medcore.errors import TrackingError
from search.tracking.mlflow_moved import settle


def database(folder: Path, *addresses: str, own: bool = True) -> Path:
    folder.mkdir(parents=True)
    if own:
        (folder / "tracking.json").write_text("{}")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT, artifact_uri TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?, ?)", enumerate(addresses))
    return folder / "mlflow.db"


def addresses_in(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute("SELECT artifact_uri FROM runs ORDER BY run_uuid")]


def test_only_files_of_the_study_follow_it(tmp_path: Path) -> None:
    kept = [
        "s3://bucket/mlartifacts/1",
        "file://host/x/mlartifacts/1",
        "file:///etc/passwd",
        "file:///a/mlartifacts/../b",
    ]
    old = ["file:///old%20place/mlartifacts/s/mlartifacts/7/artifacts", "/old/mlartifacts/8"]
    file = database(tmp_path / "a b" / "s", *kept, *old)
    here = (tmp_path / "a b" / "s" / "mlartifacts").as_uri()
    for _ in range(2):
        settle(file)
        assert addresses_in(file) == [*kept, f"{here}/7/artifacts", f"{here}/8"]
    shared = database(tmp_path / "shared", *old, own=False)
    settle(shared)
    assert addresses_in(shared) == old
    settle(tmp_path / "absent" / "mlflow.db")
    assert not (tmp_path / "absent").exists()


def test_what_is_no_database_is_one_line(tmp_path: Path) -> None:
    file = database(tmp_path / "s")
    file.write_bytes(b"no database" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db: .*--tracking-uri") as caught:
        settle(file)
    assert "\n" not in str(caught.value)
