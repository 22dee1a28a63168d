"""The only importer of mlflow: a client for a server, and what is asked of it in more than one place."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.tracking_data import Point
from search.tracking_note import hide_login

if TYPE_CHECKING:
    from mlflow import MlflowClient as Client
    from mlflow.entities import Run

#: A server that is away must not hold a search up: few and short tries, as the next round comes anyway.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_NOISY = ("mlflow", "alembic", "alembic.runtime.migration", "urllib3.connectionpool", "sqlalchemy")


def connect(uri: str) -> Client:
    """MLflow is imported here: it takes a second, which commands without tracking need not spend."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def all_runs(client: Client, experiment_id: str, condition: str) -> list[Run]:
    """Every run of an experiment that meets a condition, whatever the server's page size."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def log(client: Client, run_id: str, points: Sequence[Point], params: Mapping[str, str] | None = None) -> None:
    """One request where the server's limits allow it (the client splits larger ones)."""
    from mlflow.entities import Metric, Param

    client.log_batch(
        run_id,
        metrics=[Metric(point.key, point.value, point.timestamp, point.step) for point in points],
        params=[Param(key, value) for key, value in (params or {}).items()],
    )


def log_datasets(client: Client, run_id: str, folders: Sequence[str]) -> None:
    """Data sets of a run, told apart by their folders."""
    from mlflow.entities import Dataset, DatasetInput

    def entry(folder: str) -> DatasetInput:
        digest = uuid.uuid5(uuid.NAMESPACE_URL, folder).hex[:8]
        return DatasetInput(Dataset(Path(folder).name, digest, "local", json.dumps({"uri": folder})), tags=[])

    client.log_inputs(run_id, datasets=[entry(folder) for folder in folders])


def artifacts_beside(uri: str) -> str | None:
    """A folder beside a SQLite file, or MLflow would take one in the folder that the search was started from."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent / "mlartifacts").as_uri()


def first_line(error: BaseException) -> str:
    """What an error says first, without logins."""
    lines = hide_login(str(error)).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
