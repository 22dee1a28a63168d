"""`tracking.json`: where a study goes in MLflow and as what, so that another process can go on with it.

A server's login is never written down: not here, not in what is sent, not in messages.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from results.files import read_json, write_by_rename

FILE = "tracking.json"
#: Where MLflow's client looks for a login; the first one goes with MLFLOW_TRACKING_PASSWORD.
_LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
#: Where an address may lie in a text: it has no space and no ", but an apostrophe is legal in a password.
_WORD = re.compile(r"""('?)([^\s"]+)""")
#: In front of a host. Of a database's address SQLAlchemy takes all up to the @ as password, a slash too.
_DATABASE_LOGIN = re.compile(r"(?i)((?:postgres(?:ql)?|mysql|mssql)(?:\+\w+)?://)[^:/@]*:[^@]*@")
_LOGIN = re.compile(r"(?<=://)[^/]*@")
_PARAMETERS = r"user|username|pwd|\w*(?:password|passwd|token|secret)|odbc_connect"
_PARAMETER = re.compile(rf"(?i)([?&](?:{_PARAMETERS})=)[^&]*")


def hide_login(text: str) -> str:
    """A text whose addresses have no user and password, neither in front of their host nor among their parameters.

    Sure for all characters that an address may have; where it is not clear what belongs to it, more is hidden.
    """
    return _WORD.sub(lambda found: _hidden(*found.groups()), text)


def _hidden(quote: str, word: str) -> str:
    """A word less its logins. `quote`: an apostrophe before it, whose partner ends the address, as in YAML."""
    address, end, rest = word.rpartition("'") if quote and "'" in word else (word, "", "")
    address = _LOGIN.sub("", _DATABASE_LOGIN.sub(r"\1", address))
    return quote + _PARAMETER.sub(r"\1…", address) + end + rest


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
