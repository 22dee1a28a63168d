"""Trackers by name: the tracker of a new search, and that of a study which a search has tracked."""

from __future__ import annotations

from pathlib import Path

from search.base.sections.tracking import TrackingConfig
from search.tracking import files_tracker, mlflow_tracker
from search.tracking.note import read_whole_note
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
        MedcoreError: There is no tracker of this name, or the server that the study went to before needs a login.
    """
    return TRACKERS[config.kind](Destination(study_dir, config.uri, config.experiment, run_name))


def saved_tracker(study_dir: Path, uri: str | None = None) -> Tracker:
    """Create the tracker that a search left behind.

    Args:
        study_dir: The study's folder.
        uri: Another place than the one where the study went before.

    Raises:
        MedcoreError: The folder has no tracker, or its server needs a login.
    """
    note = read_whole_note(study_dir)
    return TRACKERS[note.kind](Destination(study_dir, uri, note.experiment, note.run_name))
