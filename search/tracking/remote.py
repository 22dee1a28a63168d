"""Studies and their runs in MLflow from outside of a search: send what is missing, add a report, bring a study back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medcore.errors import MedcoreError
from results.store.held_out import Measurement, prefixed
from search.base.logins import hide_login
from search.tracking import mlflow_client
from search.tracking.artifacts import STUDY_FILES
from search.tracking.note import FILE, own_uri
from search.tracking.points import Point, clean_key
from search.tracking.tracker import Tracker

if TYPE_CHECKING:
    from search.tracking.mlflow_client import Client


from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from results.store.trials import StudyInfo, read_study, read_study_info


def send_report(study_dir: Path, page: Path, sheets: Sequence[Path] = ()) -> str | None:
    """Put `page` on the study's parent run as `report.html`, and the files `sheets`; the run's status stays.

    Returns why that was not possible.
    """
    try:
        tracker = Tracker.of_study(study_dir)
        client = mlflow_client.connect(tracker.uri)
        run_id = find_study(client, tracker.experiment, tracker.study_id, ["tags.`medcore.study`"])
        if run_id is None:
            return f"the report is not in MLflow: {hide_login(tracker.uri)} has no run of this study"
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(page, Path(folder) / "report.html")
            client.log_artifact(run_id, str(copy))
        for sheet in sheets:
            client.log_artifact(run_id, str(sheet), "sheets")
    except MedcoreError as error:
        return f"the report is not in MLflow: {error}"
    except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
        return f"the report is not in MLflow: {mlflow_client.first_line(error)}"
    return None


def send_held_out(study_dir: Path, own: Measurement, count: int, tracking_uri: str | None = None) -> str | None:
    """Put held-out figures on the trial's run: metrics `report/…` (`finetuned/report/…`) and a tag that says of what.

    Args:
        own: of a pruned model. count: candidates measured on that part. tracking_uri: default: the study's own.

    Sending them again changes nothing. Returns why it was not possible; None also where the study never went to MLflow.
    """
    if not (study_dir / FILE).is_file():
        return None
    failed = "the held-out figures are not in MLflow"
    try:
        tracker = Tracker.of_study(study_dir, tracking_uri)
        if tracker.uri == own_uri(study_dir.absolute()) and not (study_dir / "mlflow.db").is_file():
            return None
        client = mlflow_client.connect(tracker.uri)
        parent = find_study(client, tracker.experiment, tracker.study_id, ["tags.`medcore.study`"])
        run_id = parent and _find_trial(client, parent, str(own.trial_id))
        if not run_id:
            return f"{failed}: {hide_login(tracker.uri)} has no run of trial {own.trial_id}; send it by medcore sync"
        end = int(datetime.fromisoformat(own.measured).timestamp() * 1000)
        prefix = "finetuned/" if own.fine_tuned else ""
        values = prefixed(own)
        points = [Point(clean_key(prefix + name), value, end, 0) for name, value in values.items()]
        mlflow_client.log(client, run_id, points)
        tag = f"{own.split}, {own.images} images; candidates measured on it: {count}"
        client.set_tag(run_id, f"medcore.{prefix.replace('/', '_')}held_out", tag)
    except MedcoreError as error:
        return f"{failed}: {error}"
    except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
        return f"{failed}: {mlflow_client.first_line(error)}"
    return None


def download_study(address: str, folder: Path, tracking_uri: str | None = None) -> Path:
    """Bring `mlflow:<experiment>/<run>` (a run's name or id) into `folder` and return it.

    The server is `tracking_uri`, else `MLFLOW_TRACKING_URI`. Raises `MedcoreError` if there is no such study or server.
    """
    experiment, _, name = address.removeprefix("mlflow:").rpartition("/")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not experiment or not name:
        raise MedcoreError(f"{address}: expected mlflow:<experiment>/<run>")
    if not uri:
        raise MedcoreError(f"{address}: which MLflow server? set MLFLOW_TRACKING_URI, or give the study's folder")
    try:
        client = mlflow_client.connect(uri)
        run_id = find_study(client, experiment, name)
        if run_id is None:
            raise MedcoreError(f"{address}: no such run at {hide_login(uri)}")
        present = {item.path for item in client.list_artifacts(run_id)}
        for file in STUDY_FILES:
            if file in present:
                client.download_artifacts(run_id, file, str(folder))
    except MedcoreError:
        raise
    except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
        raise MedcoreError(
            f"{address}: cannot be read from {hide_login(uri)} ({mlflow_client.first_line(error)})"
        ) from None
    if not (folder / "trials.parquet").is_file():
        raise MedcoreError(f"{address}: this run holds no study (trials.parquet is missing)")
    return folder


def find_study(
    client: Client,
    experiment: str,
    name: str,
    fields: Sequence[str] = ("attributes.run_name", "attributes.run_id"),
) -> str | None:
    """The newest parent run that has `name` in one of `fields`, which are tried in their order."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    for field in fields:
        condition = f"{field} = '{name.replace(chr(39), '')}'"
        for run in client.search_runs([found.experiment_id], condition, order_by=["attributes.start_time DESC"]):
            if "medcore.study" in run.data.tags:
                return str(run.info.run_id)
    return None


def _find_trial(client: Client, parent: str, trial_id: str) -> str | None:
    """The run of a trial below a parent run."""
    experiment_id = client.get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`medcore.trial_id` = '{trial_id}'"
    runs = mlflow_client.all_runs(client, experiment_id, condition)
    return str(runs[0].info.run_id) if runs else None


@contextmanager
def results_folder(study: str) -> Iterator[Path]:
    """Folder with the results of a study given as a folder or as `mlflow:<experiment>/<run>`; a copy goes again."""
    if not study.startswith("mlflow:"):
        yield Path(study)
        return
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        pass

        yield download_study(study, Path(folder))


def open_results(study: str) -> tuple[pd.DataFrame, StudyInfo]:
    """Trials and description of a study."""
    with results_folder(study) as folder:
        return read_study(folder), read_study_info(folder)
