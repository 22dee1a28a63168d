"""Trackers by name: the tracker of a new search, and that of a study which a search has tracked."""

from __future__ import annotations

from pathlib import Path

from medcore.errors import TrackingError
from search.base.sections.tracking import TrackingConfig, is_of_a_study
from search.tracking import files_tracker
from search.tracking.note import given_uri, read_whole_note, unasked
from search.tracking.server import tracker as mlflow_tracker
from search.tracking.tracker import TRACKERS, Destination, Tracker

#: The modules whose import registers a tracker.
BUILT_IN = (mlflow_tracker, files_tracker)


def configured_tracker(config: TrackingConfig, study_dir: Path, run_name: str) -> Tracker:
    """Create the tracker that a configuration asks for.

    Args:
        config: The section `tracking`.
        study_dir: The study's folder.
        run_name: Name of the study's run.

    Raises:
        MedcoreError: There is no tracker of this name, or only the study names the server that it went to before.
    """
    return TRACKERS[config.kind](Destination(study_dir, config.uri, config.experiment, run_name))


def given_tracking(config: Path, tracking: TrackingConfig, tracking_uri: str | None) -> str | None:
    """Return the tracking address that the user gave for a search.

    A configuration that the user wrote counts as given. One in a study's folder does not, whatever its name: the study
    may come from someone else.

    Args:
        config: File of the configuration.
        tracking: Its section `tracking`.
        tracking_uri: What the command line says.

    Raises:
        MedcoreError: The file lies in a study's folder, and only it names the address.
    """
    named = tracking.uri
    if tracking_uri is not None or named is None or not is_of_a_study(config):
        return tracking_uri
    if (given := given_uri(named)) is None:
        raise TrackingError(unasked(config, named))
    return given


def saved_tracker(study_dir: Path, uri: str | None = None) -> Tracker:
    """Create the tracker that a search left behind.

    Args:
        study_dir: The study's folder.
        uri: Another place than the one where the study went before.

    Raises:
        MedcoreError: The folder has no tracker, only the study names its server, or the server needs a login.
    """
    note = read_whole_note(study_dir)
    return TRACKERS[note.kind](Destination(study_dir, uri, note.experiment, note.run_name))
