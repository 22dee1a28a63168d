"""Writing a file so that a reader sees the whole of it or none of it."""

from __future__ import annotations

from pathlib import Path

from medcore.errors import MedcoreError
from medcore.files import replacing


def write_by_rename(path: Path, data: bytes) -> None:
    """Write `data` by `medcore.files.replacing`; folders are made.

    Raises `MedcoreError` naming the file if its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MedcoreError(f"{path}: cannot be written ({reason}); choose a writable folder") from None
