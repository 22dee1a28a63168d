"""`medcore sync`: send the rows of a study that its search could not send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medcore.errors import MedcoreError
from results.store.held_out import candidates, read_measurements
from results.store.trials import finished_ids
from search.base.lock import is_driven
from search.study.saved import FOLDER_WANTED, saved_values
from search.tracking.note import sync_command
from search.tracking.remote import send_held_out
from search.tracking.tracker import Announcement
from search.tracking.trackers import saved_tracker


def sync(study: Path, tracking_uri: str | None = None, say: Callable[[str], None] = lambda _: None) -> int:
    """Send what a search could not send.

    The number of trials at the server is returned. The parent run ends as FINISHED if the study has all its trials,
    else as KILLED. It stays RUNNING while a search runs.

    Args:
        study: The study's folder.
        tracking_uri: The server or folder. By default it is the study's own file, or the server that it went to before
            if `MLFLOW_TRACKING_URI` names it too.
        say: Takes a line on where the study can be looked at.

    Raises:
        MedcoreError: The folder is no study, only the study names the server, or the server cannot be reached.
    """
    tracker = saved_tracker(study, tracking_uri)
    complete = len(finished_ids(study)) >= _wanted_trials(study)
    if not tracker.sync("FINISHED" if complete else None if is_driven(study) else "KILLED"):
        raise MedcoreError(
            f"{tracker.address}: not everything could be sent (see above); nothing is lost, "
            f"try `{sync_command(study, tracking_uri)}` again later"
        )
    Announcement(tracker, say).tell()
    finished = finished_ids(study)
    known = read_measurements(study)
    # the newest measurement of each model; a trial without a folder has no run for its figures
    newest = {(own.trial_id, own.fine_tuned): own for own in known if own.trial_id in finished}
    for own in newest.values():
        if unsent := send_held_out(study, own, candidates(known, own.split), tracking_uri):
            raise MedcoreError(unsent)
    return len(finished)


def _wanted_trials(study: Path) -> int:
    trials = (saved_values(study).get("search") or {}).get("trials")
    if not isinstance(trials, int):
        raise MedcoreError(f"{study / 'config.yaml'}: search.trials is no whole number; {FOLDER_WANTED}")
    return trials
