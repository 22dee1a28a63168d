"""Add files and held-out figures to the runs that a study has in MLflow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from PIL import Image

from medcore.errors import TrackingError
from results.store.held_out import Measurement, held_out_means
from search.base.logins import hide_login
from search.tracking.points import Point, clean_key
from search.tracking.server.client import Server
from search.tracking.server.records import SHEET_TAG
from search.tracking.server.runs import SentStudy, find_child

#: Of a picture in a description, in pixels.
_WIDEST = 720


def attach_files(study: SentStudy, files: Mapping[str, Path]) -> None:
    """Add files to the parent run, whose status stays.

    Args:
        study: Whose run to add to.
        files: Path below the run -> file to copy.

    Raises:
        TrackingError: The server is away, refuses, or has no run of the study, or the files cannot be copied.
    """
    server = Server(study.uri)
    run_id = study.parent(server)
    try:
        with tempfile.TemporaryDirectory() as folder:
            copied(files, Path(folder))
            server.upload(run_id, Path(folder))
    except OSError as error:
        raise TrackingError(f"a temporary copy of the files cannot be made ({error.strerror or error})") from error


def copied(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into a folder.

    Args:
        files: Path below the folder -> file to copy.
        folder: Exists.

    Raises:
        OSError: A file cannot be read or written.
    """
    for place, file in files.items():
        copy = folder / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def attach_sheet(study: SentStudy, trial_id: str, sheet: Path) -> None:
    """Add a contact sheet to a trial's run, if the server has this run.

    Args:
        study: Whose run to add to.
        trial_id: The trial.
        sheet: Picture.

    Raises:
        TrackingError: The server is away or refuses, or has no run of the study, or the file cannot be copied.
    """
    server = Server(study.uri)
    run_id = find_child(server, study.parent(server), trial_id)
    if run_id is None:
        return
    name = f"contact_sheet{sheet.suffix}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            copied({name: sheet}, Path(folder))
            shrink(Path(folder) / name)
            server.upload(run_id, Path(folder) / name)
    except OSError as error:
        raise TrackingError(f"a temporary copy of {sheet} cannot be made ({error.strerror or error})") from error
    server.set_tag(run_id, SHEET_TAG, name)


def attach_held_out(study: SentStudy, measurement: Measurement, candidates: int) -> None:
    """Add held-out metrics to a trial's run.

    Their names begin with `report/` or `finetuned/report/`. A tag says what was measured.

    Args:
        study: Whose run to add to.
        measurement: Figures of a pruned model.
        candidates: Number of pruned models measured on the same images.

    Raises:
        TrackingError: The server is away, refuses, or has no run of the trial.
    """
    server = Server(study.uri)
    run_id = find_child(server, study.parent(server), str(measurement.trial_id))
    if run_id is None:
        raise TrackingError(f"{hide_login(study.uri)} has no run of trial {measurement.trial_id}; {study.advice}")
    end = int(datetime.fromisoformat(measurement.measured).timestamp() * 1000)
    prefix = "finetuned/" if measurement.fine_tuned else ""
    figures = held_out_means(measurement)
    server.log(run_id, [Point(clean_key(prefix + name), value, end, 0) for name, value in figures.items()])
    text = f"{measurement.split}, {measurement.images} images; candidates measured on it: {candidates}"
    server.set_tag(run_id, f"medcore.{prefix.replace('/', '_')}held_out", text)


def shrink(picture: Path) -> None:
    """Make a PNG file no wider than a description in MLflow, which shows pictures at their own size."""
    with Image.open(picture) as image:
        image.load()
        image.thumbnail((_WIDEST, 4 * _WIDEST))
        image.save(picture)
