"""`medcore sync`: send the rows of a study that its search could not send."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from medcore.errors import MedcoreError
from results.store.held_out import candidates, read_measurements
from results.store.trials import finished_ids
from search.base.lock import is_driven
from search.tracking.note import FOLDER_WANTED
from search.tracking.remote import send_held_out
from search.tracking.trackers import saved_tracker


def sync(study: Path, tracking_uri: str | None = None) -> int:
    """Send what a search could not send.

    The number of trials at the server is returned. The parent run ends as FINISHED if the study has all its trials,
    else as KILLED. It stays RUNNING while a search runs.

    Args:
        study: The study's folder.
        tracking_uri: Another server or folder than the study's own.

    Raises:
        MedcoreError: The folder is no study, or the server cannot be reached.
    """
    tracker = saved_tracker(study, tracking_uri)
    complete = len(finished_ids(study)) >= _wanted_trials(study)
    if not tracker.sync("FINISHED" if complete else None if is_driven(study) else "KILLED"):
        raise MedcoreError(
            f"{tracker.address}: not everything could be sent (see above); nothing is lost, "
            f"try `{shlex.join(['medcore', 'sync', str(study)])}` again later"
        )
    finished = finished_ids(study)
    known = read_measurements(study)
    # the newest measurement of each model; a trial without a folder has no run for its figures
    newest = {(own.trial_id, own.fine_tuned): own for own in known if own.trial_id in finished}
    for own in newest.values():
        if unsent := send_held_out(study, own, candidates(known, own.split), tracking_uri):
            raise MedcoreError(unsent)
    return len(finished)


def _wanted_trials(study: Path) -> int:
    path = study / "config.yaml"
    try:
        return int(yaml.safe_load(path.read_text())["search"]["trials"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise MedcoreError(f"{path}: missing or corrupt; {FOLDER_WANTED}") from None
