"""Studies in MLflow from outside of a search: add a report or held-out figures, bring a study back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from medcore.errors import MedcoreError, TrackingError
from results.store.held_out import Measurement
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import checkpoint_file, read_study
from search.base.logins import hide_login
from search.base.sections.tracking import FRONT
from search.tracking.note import FILE, URI
from search.tracking.server.client import Server
from search.tracking.server.runs import find_child, find_parent
from search.tracking.server.sender import STUDY_FILES
from search.tracking.tracker import SHEETS, Announcement
from search.tracking.trackers import saved_tracker

#: A study's address that is no folder begins so.
ADDRESS = "mlflow:"


def send_report(
    study_dir: Path,
    page: Path,
    sheets: Sequence[Path] = (),
    tracking_uri: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Add a report to the study's run, as `report.html` and the folder `sheets`.

    Args:
        study_dir: The study's folder.
        page: The report.
        sheets: Contact sheets, each named like its trial.
        tracking_uri: Another place than the one that the study went to.
        say: Takes a line on where the study can be looked at.

    Returns:
        Why that was not possible, else None.
    """
    files = {"report.html": page} | {f"{SHEETS}{sheet.name}": sheet for sheet in sheets}
    try:
        tracker = saved_tracker(study_dir, tracking_uri)
        tracker.attach(files)
    except MedcoreError as error:
        return f"the report was not sent: {error}"
    Announcement(tracker, say).tell()
    return None


def send_held_out(
    study_dir: Path,
    measurement: Measurement,
    candidates: int,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Add held-out figures to the run of their trial.

    Sending them again changes nothing.

    Args:
        study_dir: The study's folder.
        measurement: Figures of a pruned model.
        candidates: Number of pruned models measured on the same images.
        tracking_uri: Another place than the one that the study went to.
        say: Takes a line on where the study can be looked at.

    Returns:
        Why that was not possible, else None; None also for a study without a tracker.
    """
    if not (study_dir / FILE).is_file():
        return None
    try:
        tracker = saved_tracker(study_dir, tracking_uri)
        tracker.add_held_out(measurement, candidates)
    except MedcoreError as error:
        return f"the held-out figures were not sent: {error}"
    Announcement(tracker, say).tell()
    return None


def send_again(study_dir: Path, say: Callable[[str], None]) -> None:
    """Send what was measured after a search, such as times, to where the study went.

    Args:
        study_dir: The study's folder; one without a tracker is left alone.
        say: Takes a line on where the study can be looked at, or on why nothing was sent.
    """
    if not (study_dir / FILE).is_file():
        return
    try:
        tracker = saved_tracker(study_dir)
    except MedcoreError as error:
        say(f"not sent to the study's tracker: {error}")
        return
    if tracker.sync():
        Announcement(tracker, say).tell()


def download_study(address: str, folder: Path, tracking_uri: str | None = None) -> Path:
    """Copy the files of a study in MLflow into a folder.

    Args:
        address: `mlflow:EXPERIMENT/RUN`, where RUN is a run's name or id.
        folder: Where the files go.
        tracking_uri: The server; by default `MLFLOW_TRACKING_URI`.

    Returns:
        The folder.

    Raises:
        MedcoreError: There is no such server or study.
    """
    experiment, name, uri = _parts(address, tracking_uri)
    try:
        server = Server(uri)
        run_id = _find_run(server, experiment, name)
        present = server.files(run_id) if run_id else set()
        for file in present.intersection(STUDY_FILES):
            server.download(str(run_id), file, folder)
    except TrackingError as error:
        raise TrackingError(f"{address}: cannot be read from {hide_login(uri)} ({error})") from None
    if run_id is None:
        raise TrackingError(f"{address}: no such run at {hide_login(uri)}")
    if not (folder / "trials.parquet").is_file():
        raise TrackingError(f"{address}: this run holds no study (trials.parquet is missing)")
    return folder


def download_model(address: str, row: TrialRow, folder: Path, tracking_uri: str | None = None) -> None:
    """Copy the model of a trial in MLflow to its place in a folder that `download_study` made.

    Args:
        address: As for `download_study`.
        row: The trial.
        folder: The copy of the study.
        tracking_uri: The server; by default `MLFLOW_TRACKING_URI`.

    Raises:
        MedcoreError: The server is away, or has no model of this trial.
    """
    experiment, name, uri = _parts(address, tracking_uri)
    file = checkpoint_file(folder, row)
    try:
        server = Server(uri)
        parent = _find_run(server, experiment, name)
        run_id = find_child(server, parent, row.trial_id) if parent else None
        is_there = run_id is not None and file.name in server.files(run_id)
        if is_there:
            file.parent.mkdir(parents=True, exist_ok=True)
            server.download(str(run_id), file.name, file.parent)
    except (TrackingError, OSError) as error:
        raise TrackingError(f"{address}: cannot be read from {hide_login(uri)} ({error})") from None
    if not is_there:
        raise TrackingError(
            f"{address}: {hide_login(uri)} has no model of trial {row.trial_id}; give the study's folder, or search "
            f"with `tracking.models: {FRONT}`, which sends the models of the whole front when the search ends"
        )


def _parts(address: str, tracking_uri: str | None) -> tuple[str, str, str]:
    """Return the experiment, the run and the server of an address.

    Raises:
        TrackingError: It is no address, or no server is named.
    """
    experiment, _, name = address.removeprefix(ADDRESS).rpartition("/")
    uri = tracking_uri or os.environ.get(URI)
    if not experiment or not name:
        raise TrackingError(f"{address}: expected {ADDRESS}<experiment>/<run>")
    if not uri:
        raise TrackingError(f"{address}: which MLflow server? set {URI}, or give the study's folder")
    return experiment, name.replace("'", ""), uri


def _find_run(server: Server, experiment: str, name: str) -> str | None:
    """Return the newest run of a study with this name or, if there is none, this id."""
    for field in ("attributes.run_name", "attributes.run_id"):
        run_id = find_parent(server, experiment, f"{field} = '{name}'")
        if run_id is not None:
            return run_id
    return None


@contextmanager
def results_folder(study: str) -> Iterator[Path]:
    """Yield the folder with a study's results.

    For `mlflow:EXPERIMENT/RUN` a copy that is removed afterwards.

    Raises:
        MedcoreError: There is no such study in MLflow.
    """
    if not study.startswith(ADDRESS):
        yield Path(study)
        return
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        yield download_study(study, Path(folder))


def open_results(study: str) -> tuple[pd.DataFrame, StudyInfo]:
    """Return trials and description of a study.

    The study is a folder or `mlflow:EXPERIMENT/RUN`.

    Raises:
        MedcoreError: There is no such study, or its files are corrupt.
    """
    with results_folder(study) as folder:
        return read_study(folder), read_study_info(folder)
