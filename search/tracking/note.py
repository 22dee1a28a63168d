"""`tracking.json`: where a study goes in MLflow and as what, so that another process can go on with it.

A server's login is never written down: not here, not in what is sent, not in messages.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from results.store.files import read_json, write_by_rename
from search.base.logins import _LOGINS, hide_login

FILE = "tracking.json"


def own_uri(study_dir: Path) -> str:
    """The SQLite file in the study's folder."""
    return f"sqlite:///{study_dir / 'mlflow.db'}"


def earlier_uri(study_dir: Path) -> str | None:
    """The server that the study went to before; None for a new study and for its own file.

    Raises `MedcoreError` if that server was given with a login and now there is none.
    """
    noted = read_note(study_dir)
    uri = noted.get("uri")
    if noted.get("login"):
        again = f"{study_dir / FILE}: the login for MLflow at {uri} is not kept"
        if not str(uri).startswith("http"):
            raise MedcoreError(f"{again}; give --tracking-uri again")
        if not any(os.environ.get(name) for name in _LOGINS):
            raise MedcoreError(
                f"{again}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or give --tracking-uri again"
            )
    return uri


def read_note(study_dir: Path) -> dict[str, Any]:
    """What the last start wrote down; empty before the first. Raises `MedcoreError` if it is corrupt."""
    path, advice = study_dir / FILE, "delete it, and the study gets a new run in MLflow"
    note = read_json(path, advice) if path.is_file() else {}
    if not isinstance(note, dict):
        raise MedcoreError(f"{path}: corrupt (expected an object); {advice}")
    return note


def write_note(study_dir: Path, uri: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `about` with the study's identity, which stays what it was, and with `uri` less its login; returns it."""
    earlier, public = read_note(study_dir), hide_login(uri)
    note = {
        "study_id": earlier.get("study_id") or uuid.uuid4().hex,
        "uri": None if uri == own_uri(study_dir) else public,
        "login": public != uri or (public == earlier.get("uri") and bool(earlier.get("login"))),
        **about,
    }
    write_by_rename(study_dir / FILE, (json.dumps(note, indent=1) + "\n").encode())
    return note
