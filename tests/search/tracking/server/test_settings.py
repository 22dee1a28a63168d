"""Settings hold for a block only, and foreign errors become one kind."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medcore.errors import MedcoreError, StorageError, TrackingError
from search.tracking.server.client import Server
from search.tracking.server.settings import mlflow_errors, mlflow_settings


def test_environment_and_log_levels_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    before, logger = dict(os.environ), logging.getLogger("alembic")
    level = logger.level
    with pytest.raises(KeyError), mlflow_settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"  # the user's own wins over a default
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0" and logger.level == logging.CRITICAL
        with mlflow_settings(MLFLOW_HTTP_REQUEST_TIMEOUT="600"):
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "600"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        raise KeyError("inside")
    assert dict(os.environ) == before and logger.level == level


def test_threads_do_not_see_each_other_s_settings() -> None:
    def look(number: int) -> bool:
        with mlflow_settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(number)):
            return all(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == str(number) for _ in range(1000))

    before = dict(os.environ)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, range(40)))
    assert dict(os.environ) == before


def test_a_server_leaves_the_environment_as_it_was(tmp_path: Path, store: str) -> None:
    before = dict(os.environ)
    server = Server(store)
    assert server.find_experiment("none") is None and dict(os.environ) == before


def test_foreign_errors_become_tracking_errors() -> None:
    with pytest.raises(TrackingError) as refusal, mlflow_errors():
        raise RuntimeError("HTTPConnectionPool(x): Max retries (Caused by Refused('http://me:pw@h:1'))\nsecond line")
    assert str(refusal.value) == "Refused('http://h:1')"
    with pytest.raises(TrackingError, match="KeyError"), mlflow_errors():
        raise KeyError
    with pytest.raises(StorageError), mlflow_errors():
        raise StorageError("our own")
    assert issubclass(TrackingError, MedcoreError)
