"""Files that a reader sees whole or not at all, and JSON that is what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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


def plain_record(row: Mapping[Any, Any] | pd.Series) -> dict[str, Any]:
    """A row as Python's own types; None where a value is missing, infinite or not a number."""
    return {str(key): plain(value) for key, value in row.items()}


def plain(value: Any) -> Any:
    """One value, or all within a list, an array or a mapping, as JSON knows it."""
    if isinstance(value, Mapping):
        return plain_record(value)
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def make_folder(path: Path) -> None:
    """Create a folder or say in one line why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot create this folder ({error.strerror}); choose another `output`") from None
