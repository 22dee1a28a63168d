"""`medcore sync`: send a study to MLflow that the search could not send."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from medcore.errors import MedcoreError
from results.store.held_out import candidates, read_measurements
from results.store.trials import finished_ids
from search.base.lock import is_driven
from search.base.logins import hide_login
from search.tracking.tracker import FOLDER_WANTED, Tracker

if TYPE_CHECKING:
    pass

from search.tracking.remote import send_held_out


def sync_study(study_dir: Path, tracking_uri: str | None = None) -> int:
    """`medcore sync`: send what a search could not. Returns the number of trials at the server.

    The parent run ends as FINISHED if the study has all its trials, else as KILLED; while a search goes on it is left
    RUNNING. Raises `MedcoreError` if the folder is no study or the server is away.
    """
    tracker = Tracker.of_study(study_dir, tracking_uri)
    complete = len(finished_ids(study_dir)) >= _wanted_trials(study_dir)
    if not tracker.sync("FINISHED" if complete else None if is_driven(study_dir) else "KILLED"):
        raise MedcoreError(
            f"{hide_login(tracker.uri)}: not everything could be sent (see above); nothing is lost, "
            f"try `{shlex.join(['medcore', 'sync', str(study_dir)])}` again later"
        )
    finished = finished_ids(study_dir)
    known = read_measurements(study_dir)
    # of a model that ran again, the newest; a trial whose folder is gone has no run to put figures on
    newest = {(own.trial_id, own.fine_tuned): own for own in known if own.trial_id in finished}
    for own in newest.values():
        if unsent := send_held_out(study_dir, own, candidates(known, own.split), tracking_uri):
            raise MedcoreError(unsent)
    return len(finished)


def _wanted_trials(study_dir: Path) -> int:
    path = study_dir / "config.yaml"
    try:
        return int(yaml.safe_load(path.read_text())["search"]["trials"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise MedcoreError(f"{path}: missing or corrupt; {FOLDER_WANTED}") from None
