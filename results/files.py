"""Files that a reader sees whole or not at all, and JSON that is what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from medcore.files import cannot_write, replacing


def write_by_rename(path: Path, data: bytes) -> None:
    """Write `data` by `medcore.files.replacing`; folders are made.

    Raises `StorageError` naming the file if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from None


def read_json(path: Path, advice: str = "restore it from a copy") -> Any:
    """Raises `MedcoreError`, which ends in `advice`, for a file that is absent or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MedcoreError(f"{path}: missing; {advice}") from None
    except (OSError, ValueError) as error:
        raise MedcoreError(f"{path}: corrupt ({error}); {advice}") from None
