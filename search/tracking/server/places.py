"""Where a server of MLflow or a database keeps the files of its runs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from medcore.errors import TrackingError
from search.tracking.note import ARTIFACTS
from search.tracking.note import FILE as NOTE


def artifacts_folder(uri: str) -> str | None:
    """Return a folder next to a SQLite file.

    Without it MLflow takes one in the current folder.
    """
    file = database_of(uri)
    return None if file is None else (file.parent / ARTIFACTS).as_uri()


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite address, None for another one."""
    scheme, _, place = uri.partition(":///")
    return Path(unquote(place.partition("?")[0])).absolute() if scheme in ("sqlite", "sqlite+pysqlite") else None


def check_place(uri: str, location: str) -> None:
    """Check that a study's own database stores files in the study's folder.

    The study may come from someone else. Its database could name a bucket, which MLflow would open with the user's
    keys, or another folder.

    Args:
        uri: Address of the server or database.
        location: Where its files go.

    Raises:
        TrackingError: It is a study's own database and names such a place.
    """
    file = database_of(uri)
    if file is None or not (file.parent / NOTE).is_file() or _is_below(location, file.parent):
        return
    raise TrackingError(
        f"{file} wants its files at {location}, outside of the study, which has moved or comes from elsewhere; "
        "send it to a place of your own with `medcore sync STUDY --tracking-uri URI`"
    )


def _is_below(location: str, folder: Path) -> bool:
    """Return whether MLflow would store files at `location` below a folder."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return False
    return Path(unquote(parts.path) if parts.scheme else location).resolve().is_relative_to(folder.resolve())
