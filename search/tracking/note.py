"""`tracking.json`: where a study goes and how its run is described, so that another process can continue.

A server's login is never written down: neither here, nor in what is sent, nor in messages.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError, TrackingError
from medcore.files import refuse_links, refuse_links_below
from results.store.files import read_json, write_by_rename
from search.base.logins import hide_login

FILE = "tracking.json"
#: The kind of tracker of studies from before there was a choice.
MLFLOW = "mlflow"
#: Where the user names a server, as for MLflow's own tools.
URI = "MLFLOW_TRACKING_URI"
#: Folder next to a SQLite file of MLflow, for the files of its runs.
ARTIFACTS = "mlartifacts"
FOLDER_WANTED = "give the folder that `medcore search` wrote"
#: Where MLflow's client looks for a login; the first one goes with MLFLOW_TRACKING_PASSWORD.
_LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
_ADVICE = "delete it, and the study gets a new run in its tracker"


@dataclass(frozen=True)
class StudyNote:
    """Content of `tracking.json`.

    Attributes:
        kind: Name of the tracker.
        study_id: Identity of the study, by which its run is found.
        experiment: Name that groups studies.
        run_name: Name of the study's run.
        uri: Address without its login; None for the tracker's own place in the study's folder.
        login: The address was given with a login.
        tags: Tags of the study's run.
        params: The configuration by dotted keys, as text.
        datasets: Folders of the data sets.
        missing: Keys that the file lacks, so that no tracker can be made from it.
    """

    kind: str = MLFLOW
    study_id: str = ""
    experiment: str = ""
    run_name: str = ""
    uri: str | None = None
    login: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    missing: tuple[str, ...] = ()


_TYPES: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "study_id": str,
    "experiment": str,
    "run_name": str,
    "uri": (str, type(None)),
    "tags": dict,
    "params": dict,
    "datasets": list,
}
#: Keys without which a tracker cannot continue.
_REQUIRED = ("study_id", "experiment", "run_name", "tags", "params", "datasets")
_KNOWN = {entry.name for entry in dataclasses.fields(StudyNote)} - {"missing"}


def read_note(study_dir: Path) -> StudyNote | None:
    """Read what the last start wrote down; None before the first one.

    Raises:
        MedcoreError: The file is corrupt.
    """
    path = study_dir / FILE
    if not path.is_file():
        return None
    values = read_json(path, _ADVICE)
    if not isinstance(values, dict):
        raise MedcoreError(f"{path}: corrupt (expected an object); {_ADVICE}")
    if wrong := [name for name, kind in _TYPES.items() if name in values and not isinstance(values[name], kind)]:
        raise MedcoreError(f"{path}: corrupt ({', '.join(wrong)}); {_ADVICE}")
    missing = tuple(name for name in _REQUIRED if name not in values)
    return StudyNote(**{name: value for name, value in values.items() if name in _KNOWN}, missing=missing)


def read_whole_note(study_dir: Path) -> StudyNote:
    """Read the note of a study that a search has started to track.

    Raises:
        MedcoreError: The file is absent, corrupt or incomplete.
    """
    note = read_note(study_dir)
    if note is None or note.missing:
        raise MedcoreError(f"{study_dir / FILE}: missing or incomplete; {FOLDER_WANTED}")
    return note


def write_note(study_dir: Path, note: StudyNote) -> StudyNote:
    """Write a note that keeps the identity of an earlier one, and return it.

    Args:
        study_dir: The study's folder.
        note: The new note; its `study_id` is ignored.

    Raises:
        MedcoreError: The earlier file is corrupt, or the folder cannot be written.
    """
    earlier = read_note(study_dir)
    study_id = earlier.study_id if earlier and earlier.study_id else uuid.uuid4().hex
    note = dataclasses.replace(note, study_id=study_id, missing=())
    values: dict[str, Any] = dataclasses.asdict(note)
    del values["missing"]
    write_by_rename(study_dir / FILE, (json.dumps(values, indent=1) + "\n").encode())
    return note


def own_uri(study_dir: Path) -> str:
    """Return the address of the SQLite file in the study's folder.

    Characters that mean something else in an address are written as codes.
    """
    place = coded = str(study_dir / "mlflow.db")
    for character in "%?#":  # the per cent sign first
        coded = coded.replace(character, f"%{ord(character):02X}")
    # MLflow makes the folder of a `sqlite:///` address without reading its codes, so a stray one would appear
    return f"{'sqlite' if coded == place else 'sqlite+pysqlite'}:///{coded}"


def earlier_uri(study_dir: Path, kind: str = MLFLOW) -> str | None:
    """Return the place that the study went to before, if the user names it too.

    The study may come from someone else, and MLflow sends the user's login to whatever server it talks to. So a place
    that only the study's file names is not used: the user gives it again, or has it in `MLFLOW_TRACKING_URI`.

    Args:
        study_dir: The study's folder.
        kind: The tracker that asks.

    Returns:
        The address; None for a new study, for one of another kind, and if the study used its own place.

    Raises:
        MedcoreError: Only the study's file names the place, or its login is not known any more.
    """
    note = read_note(study_dir)
    if note is None or note.kind != kind or note.uri is None:
        return None
    given = given_uri(note.uri)
    if given is None:
        raise TrackingError(unasked(study_dir / FILE, note.uri))
    if note.login and given == note.uri:
        problem = f"{study_dir / FILE}: the login for MLflow at {note.uri} is not kept"
        if not note.uri.startswith("http"):
            raise TrackingError(f"{problem}; give --tracking-uri again")
        if not any(os.environ.get(name) for name in _LOGINS):
            raise TrackingError(
                f"{problem}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or give --tracking-uri again"
            )
    return given


def sync_command(study_dir: Path, uri: str | None) -> str:
    """Return the command that sends a study later, for a shell. A login in the address is left out."""
    words = ["medcore", "sync", str(study_dir)]
    elsewhere = uri is not None and uri != own_uri(study_dir.absolute())
    return shlex.join([*words, "--tracking-uri", hide_login(str(uri))] if elsewhere else words)


def destination_uri(study_dir: Path, given: str | None) -> str:
    """Return the address of the MLflow server that a study goes to.

    Args:
        study_dir: The study's folder, absolute.
        given: What the user gave. By default it is the server that the study went to before, else its own file.

    Raises:
        MedcoreError: As `earlier_uri`, or the study's own file is a link.
    """
    own = own_uri(study_dir)
    uri = given or earlier_uri(study_dir) or own
    if uri == own:
        refuse_links(study_dir, *(f"mlflow.db{end}" for end in ("", "-journal", "-wal", "-shm")), ARTIFACTS)
        refuse_links_below(study_dir / ARTIFACTS)
    return uri


def unasked(file: Path, named: str) -> str:
    """Say that only a study's own file names a place, and what to do."""
    public = hide_login(named)
    return (
        f"{file}: names {public}, and nothing is sent to a place that only a study names; if you trust it, give "
        f"--tracking-uri {shlex.quote(public)}, or set {URI}"
    )


def given_uri(named: str) -> str | None:
    """Return the address in the user's environment if a study names the same one, else None."""
    given = os.environ.get(URI)
    return given if given and hide_login(given).rstrip("/") == hide_login(named).rstrip("/") else None
