"""The only importer of mlflow: calls of a server and of MLflow's models, with its settings and errors kept in here."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcore.errors import TrackingError
from search.tracking.points import Point
from search.tracking.server.moved import settle
from search.tracking.server.places import artifacts_folder, check_place, database_of
from search.tracking.server.records import ModelFolder, ModelVersion, NewRun, Run
from search.tracking.server.settings import mlflow_errors, mlflow_settings

if TYPE_CHECKING:
    import mlflow.entities
    from pandas import DataFrame

#: Seconds that a server may take to store a model of a gigabyte.
_UPLOAD_SECONDS = "600"
#: Stored with an experiment for a moment, to find out whether the server stores files.
_PROBE_FILE = "medcore-was-here.txt"


class Server:
    """A client of one MLflow server.

    Its methods raise `TrackingError` if the server is away or refuses.

    Args:
        uri: Address of the server or of a database; may hold a login.
        retries: How often MLflow repeats a request that had no answer.
    """

    def __init__(self, uri: str, retries: int = 1) -> None:
        self.uri = uri
        self._retries = str(retries)
        _import()
        with self._request():
            from mlflow import MlflowClient
            from mlflow.tracking._tracking_service import utils

            if (database := database_of(uri)) is not None:
                settle(database)
                # MLflow remembers places of files by run, and a copy of a study has the same runs
                getattr(utils, "_artifact_repos_cache", {}).clear()
            self._client = MlflowClient(tracking_uri=uri)

    @contextmanager
    def _request(self, **variables: str) -> Iterator[None]:
        with mlflow_errors(), mlflow_settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=self._retries, **variables):
            yield

    def find_experiment(self, name: str) -> str | None:
        """Return the id of the experiment of this name, None if there is none."""
        with self._request():
            found = self._client.get_experiment_by_name(name)
            return None if found is None else str(found.experiment_id)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, which is created if there is none.

        Raises:
            TrackingError: The experiment was deleted, so that it takes no runs and its name is not free either.
        """
        with self._request():
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage != "active":
                raise TrackingError(
                    f"the experiment '{name}' was deleted there; restore it with `mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}`, or set tracking.experiment to another name"
                )
            if found is not None:
                return str(found.experiment_id)
            place, tags = artifacts_folder(self.uri), {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """Return the tags of an experiment as they are now."""
        with self._request():
            return dict(self._client.get_experiment(experiment_id).tags)

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        """Set a tag of an experiment."""
        with self._request():
            self._client.set_experiment_tag(experiment_id, name, value)

    def probe_files(self, experiment_id: str) -> None:
        """Store a file as the runs of an experiment will, and delete it again."""
        with self._request(), tempfile.TemporaryDirectory() as folder:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            location = self._client.get_experiment(experiment_id).artifact_location
            store: Any = get_artifact_repository(location, tracking_uri=self.uri)
            file = Path(folder) / _PROBE_FILE
            file.write_text("A search of medcore checked whether it can store files here.\n")
            store.log_artifact(str(file))
            with suppress(Exception):  # a login that may write is not always allowed to delete
                store.delete_artifacts(_PROBE_FILE)

    def runs(self, experiment_id: str, condition: str, newest_first: bool = False) -> list[Run]:
        """Return all runs of an experiment that meet a condition.

        The server's limit of runs a page does not matter.
        """
        order = ["attributes.start_time DESC"] if newest_first else None
        runs, token = list[Run](), None
        while True:
            with self._request():
                page = self._client.search_runs(
                    [experiment_id], condition, max_results=1000, order_by=order, page_token=token
                )
            runs += [_record(run) for run in page]
            token = page.token
            if not token:
                return runs

    def run(self, run_id: str) -> Run:
        """Return a run as it is now."""
        with self._request():
            return _record(self._client.get_run(run_id))

    def create_run(self, experiment_id: str, run: NewRun) -> str:
        """Create a run and return its id."""
        with self._request():
            created = self._client.create_run(experiment_id, run.start, dict(run.tags), run.name)
            return str(created.info.run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run; MLflow keeps it in its bin."""
        with self._request():
            self._client.delete_run(run_id)

    def set_running(self, run_id: str) -> None:
        """Set a run's status to RUNNING."""
        with self._request():
            self._client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: str, end: int | None = None) -> None:
        """End a run with this status, at `end` (milliseconds) or now."""
        with self._request():
            self._client.set_terminated(run_id, status, end)

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        with self._request():
            self._client.set_tag(run_id, name, value)

    def last_step(self, run_id: str, metric: str) -> int:
        """Return the largest step of a metric's curve, 0 if it has no points."""
        with self._request():
            return max((point.step for point in self._client.get_metric_history(run_id, metric)), default=0)

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str] | None = None) -> None:
        """Add points and parameters in one request where the server's limits allow it."""
        with self._request():
            from mlflow.entities import Metric, Param

            self._client.log_batch(
                run_id,
                metrics=[Metric(point.key, point.value, point.timestamp, point.step) for point in points],
                params=[Param(key, value) for key, value in (params or {}).items()],
            )

    def log_datasets(self, run_id: str, folders: Sequence[str]) -> None:
        """Add data sets to a run. Their folders tell them apart."""
        with self._request():
            from mlflow.entities import Dataset, DatasetInput

            def entry(folder: str) -> DatasetInput:
                digest = uuid.uuid5(uuid.NAMESPACE_URL, folder).hex[:8]
                return DatasetInput(Dataset(Path(folder).name, digest, "local", json.dumps({"uri": folder})), tags=[])

            self._client.log_inputs(run_id, datasets=[entry(folder) for folder in folders])

    def upload(self, run_id: str, path: Path, *, large: bool = False) -> None:
        """Add a file, or all that is in a folder, to a run's files; a `large` one may take minutes."""
        with self._request(**({"MLFLOW_HTTP_REQUEST_TIMEOUT": _UPLOAD_SECONDS} if large else {})):
            if database_of(self.uri) is not None:
                check_place(self.uri, self._client.get_run(run_id).info.artifact_uri)
            (self._client.log_artifacts if path.is_dir() else self._client.log_artifact)(run_id, str(path))

    def files(self, run_id: str) -> set[str]:
        """Return the names of a run's files."""
        with self._request():
            return {item.path for item in self._client.list_artifacts(run_id)}

    def download(self, run_id: str, file: str, folder: Path) -> None:
        """Copy one of a run's files into a folder."""
        with self._request(MLFLOW_HTTP_REQUEST_TIMEOUT=_UPLOAD_SECONDS):
            self._client.download_artifacts(run_id, file, str(folder))

    def register(self, run_id: str, folder: Path, version: ModelVersion) -> int:
        """Log a model folder on a run as the newest version of a registered model.

        The alias is set last, so that it always points to a whole model.

        Returns:
            Number of the version.
        """
        with self._request(MLFLOW_HTTP_REQUEST_TIMEOUT=_UPLOAD_SECONDS):
            from mlflow.entities import LoggedModelOutput
            from mlflow.exceptions import MlflowException
            from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

            client, name, tags = self._client, version.name, dict(version.tags)
            experiment_id = client.get_run(run_id).info.experiment_id
            if database_of(self.uri) is not None:
                check_place(self.uri, client.get_experiment(experiment_id).artifact_location)
            model = client.create_logged_model(experiment_id, name, run_id, tags, model_type="segmentation")
            try:
                client.log_model_artifacts(model.model_id, str(folder))
            except BaseException:
                client.finalize_logged_model(model.model_id, "FAILED")
                raise
            client.finalize_logged_model(model.model_id, "READY")
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            number = client.create_model_version(
                name, model.artifact_location, run_id, tags, description=version.description, model_id=model.model_id
            ).version
            # MLflow's pages find the version of a model by this tag
            found = json.dumps([{"name": name, "version": int(number)}])
            client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: found})
            client.set_registered_model_alias(name, version.alias, number)
            return int(number)


def _import() -> None:
    """Import mlflow, so that log levels are changed after it and not by it.

    The first import takes a second.
    """
    with mlflow_settings():
        import mlflow  # noqa: F401


def _record(run: mlflow.entities.Run) -> Run:
    info, data = run.info, run.data
    return Run(
        info.run_id,
        info.experiment_id,
        name=info.run_name or "",
        status=info.status,
        start=info.start_time,
        tags=data.tags,
        params=frozenset(data.params),
        metrics=data.metrics,
    )


def save_model(folder: Path, content: ModelFolder) -> None:
    """Write an MLflow model folder in which nothing is pickled.

    Args:
        folder: Empty or absent.
        content: What to write it from.
    """
    _import()
    with mlflow_settings():
        import pandas as pd
        from mlflow import pyfunc
        from mlflow.models import Model, ModelSignature

        model = Model()
        pyfunc.save_model(
            str(folder),
            python_model=str(content.script),
            artifacts={name: str(path) for name, path in content.artifacts.items()},
            signature=ModelSignature(_schema(content.inputs), _schema(content.outputs)),
            input_example=pd.DataFrame([content.example]),
            pip_requirements=list(content.requirements),
            model_config=dict(content.config),
            mlflow_model=model,
        )
        # MLflow notes where the files were on this machine, which concerns no one else, and reads only their names
        flavor = model.flavors[pyfunc.FLAVOR_NAME]
        flavor["model_code_path"] = content.script.name
        for entry in flavor["artifacts"].values():
            entry["uri"] = entry["path"]
        model.save(str(folder / "MLmodel"))


def _schema(types: Mapping[str, Any]) -> Any:
    """Return MLflow's schema of columns whose types are given as in `ModelFolder`."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    def kind(value: Any) -> Any:
        if isinstance(value, list):
            return Array(kind(value[0]))
        return AnyType() if value == "any" else DataType[value]  # type: ignore[no-untyped-call]

    return Schema([ColSpec(kind(value), name) for name, value in types.items()])


def load_model(folder: Path, config: Mapping[str, Any]) -> Callable[[DataFrame], DataFrame]:
    """Load a model folder in this process and return its `predict`."""
    _import()
    with mlflow_settings():
        from mlflow import pyfunc

        predict: Callable[[DataFrame], DataFrame] = pyfunc.load_model(str(folder), model_config=dict(config)).predict
        return predict
