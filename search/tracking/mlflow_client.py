"""The only importer of mlflow: a client for a server, and what is asked of it in more than one place."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.base.logins import hide_login
from search.tracking.points import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient as Client
    from mlflow.entities import Run
    from pandas import DataFrame

#: A server that is away must not hold a search up: short tries, as the next round comes anyway.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or the project files of the folder one stands in go into a model
}
#: Seconds that a server may take to put a model of a gigabyte away.
_UPLOAD_SECONDS = "600"
#: Set on an experiment before a search, to find out whether it can be written; the same each time.
_PROBE_TAG = ("medcore.searches", "true")
#: Laid beside an experiment's runs for a moment, for the same reason.
_PROBE_FILE = "medcore-was-here.txt"
_NOISY = ("mlflow", "alembic", "alembic.runtime.migration", "urllib3.connectionpool", "sqlalchemy")


def connect(uri: str, retries: int = 1) -> Client:
    """MLflow is imported here: it takes a second, which commands without tracking need not spend.

    `retries`: how often a request that had no answer is sent again, by all clients of this process from now on.
    """
    _prepare()
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _prepare() -> None:
    """Set MLflow up for a program that speaks for itself; more often than once does no harm."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401 - it sets its loggers' levels

    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def experiment_id(client: Client, uri: str, name: str) -> str:
    """The experiment of this name, which is made if it does not exist."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=artifacts_beside(uri), tags=tags))


def why_not_writable(uri: str, experiment: str) -> str | None:
    """None if a search can write there, else what is wrong with the server.

    Found out by a tag of the experiment and by a file beside its runs, which goes again.
    """
    try:
        client = connect(uri, retries=0)
        with suppress(Exception):  # one connection that broke says nothing of the server
            client.get_experiment_by_name(experiment)
        client.get_experiment_by_name(experiment)
    except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
        return f"cannot be reached ({first_line(error)})"
    try:
        found = experiment_id(client, uri, experiment)
        client.set_experiment_tag(found, *_PROBE_TAG)
        location = client.get_experiment(found).artifact_location
    except Exception as error:  # noqa: BLE001 - as above
        return f"cannot be written ({first_line(error)})"
    try:
        _store_probe(location, uri)
    except Exception as error:  # noqa: BLE001 - and what its artifact stores raise
        return f"takes no files ({first_line(error)}; are its bucket and key right?)"
    return None


def _store_probe(location: str, uri: str) -> None:
    """Write a file as runs will, and take it away."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = get_artifact_repository(location, tracking_uri=uri)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _PROBE_FILE
        file.write_text("A search of medcore looked whether it can store files here.\n")
        store.log_artifact(str(file))
    with suppress(Exception):  # who may write is not always allowed to delete, and need not be
        store.delete_artifacts(_PROBE_FILE)


def check_alive(client: Client, run_id: str) -> None:
    """Raises if the server is away. A refused upload may break its connection, so there is a try with a new one."""
    with suppress(Exception):
        client.get_run(run_id)
        return
    client.get_run(run_id)


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


def save_model(
    folder: Path,
    script: Path,
    artifacts: Mapping[str, Path],
    columns: tuple[Mapping[str, Any], Mapping[str, Any]],
    example: Mapping[str, Any],
    requirements: Sequence[str],
    config: Mapping[str, Any],
) -> None:
    """Write an MLflow model folder whose code is `script` and in which nothing is pickled.

    Args:
        folder: empty or absent. artifacts: files that the script finds in its context by these names.
        columns: types by name, of the input's columns and of the output's. A type is the name of one of MLflow's, or
            `any`; a list of one type is an array of it.
        example: one row of input. config: what a loader of the model may override.
    """
    _prepare()
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    def kind(value: Any) -> Any:
        if isinstance(value, list):
            return Array(kind(value[0]))
        return AnyType() if value == "any" else DataType[value]

    def schema(types: Mapping[str, Any]) -> Schema:
        return Schema([ColSpec(kind(value), name) for name, value in types.items()])

    model = Model()
    pyfunc.save_model(
        str(folder),
        python_model=str(script),
        artifacts={name: str(path) for name, path in artifacts.items()},
        signature=ModelSignature(*map(schema, columns)),
        input_example=pd.DataFrame([example]),
        pip_requirements=list(requirements),
        model_config=dict(config),
        mlflow_model=model,
    )
    # MLflow notes where the files lay on this machine, which is nobody's business, and reads their names alone
    flavor = model.flavors[pyfunc.FLAVOR_NAME]
    flavor["model_code_path"] = script.name
    for entry in flavor["artifacts"].values():
        entry["uri"] = entry["path"]
    model.save(str(folder / "MLmodel"))


def load_model(folder: Path, config: Mapping[str, Any]) -> Callable[[DataFrame], DataFrame]:
    """The `predict` of a model folder, in this process."""
    _prepare()
    from mlflow import pyfunc

    predict: Callable[[DataFrame], DataFrame] = pyfunc.load_model(str(folder), model_config=dict(config)).predict
    return predict


def register_model(
    client: Client, run_id: str, folder: Path, name: str, alias: str, tags: Mapping[str, str], description: str
) -> int:
    """Log a model folder on a run, and make it the newest version of the registered model `name`, and `alias` that one.

    The alias comes last, so whoever follows it gets the whole model or the one before. Returns the version.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name, run_id, dict(tags), model_type="segmentation")
    timeout = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = _UPLOAD_SECONDS
    status = "FAILED"
    try:
        client.log_model_artifacts(model.model_id, str(folder))
        status = "READY"
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = timeout
        client.finalize_logged_model(model.model_id, status)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, model.artifact_location, run_id, dict(tags), description=description, model_id=model.model_id
    ).version
    # by this MLflow's pages find the version from the model
    client.set_logged_model_tags(
        model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": name, "version": int(version)}])}
    )
    client.set_registered_model_alias(name, alias, version)
    return int(version)


def first_line(error: BaseException) -> str:
    """What an error says first, without logins; of a failed request only its cause, as the address is known."""
    lines = hide_login(str(error)).splitlines()
    return (re.sub(r"^.*\(Caused by (.*)\)$", r"\1", lines[0]) if lines else type(error).__name__)[:200]
