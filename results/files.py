"""Writing a file so that a reader sees the whole of it or none of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from medcore.errors import MedcoreError


def write_by_rename(path: Path, data: bytes) -> None:
    """Write `data` to `NAME.<pid>.tmp` beside `path`, flush it to disk and rename it; folders are made.

    Raises `MedcoreError` naming the file if its folder cannot be written.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            half.unlink()
        reason = error.strerror or str(error)
        raise MedcoreError(f"{path}: cannot be written ({reason}); choose a writable folder") from None
