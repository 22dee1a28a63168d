"""Atomic files, checked JSON, and conversion of values to JSON types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.files import cannot_write, replacing


def write_by_rename(path: Path, data: bytes) -> None:
    """Write `data` with `medcore.files.replacing`, and make the folders above.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as `plain` gives it, indented, by `write_by_rename`."""
    write_by_rename(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, advice: str = "restore it from a copy") -> Any:
    """Read a JSON file.

    Raises:
        MedcoreError: The file is missing or is no JSON; the message ends in `advice`.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MedcoreError(f"{path}: missing; {advice}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        raise MedcoreError(f"{path}: corrupt ({error}); {advice}") from None


def plain_record(row: Mapping[Any, Any] | pd.Series) -> dict[str, Any]:
    """Return a row with plain values.

    A value that is missing, infinite or not a number is None.
    """
    return {str(key): plain(value) for key, value in row.items()}


def plain(value: Any) -> Any:
    """Return a value, or all within a list or mapping, as JSON knows it.

    Paths become text.
    """
    if isinstance(value, Mapping):
        return plain_record(value)
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return str(value) if isinstance(value, Path) else value


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number of Python's or NumPy's. Booleans are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number. Booleans are none."""
    return is_number(value) and math.isfinite(value)


def make_folder(path: Path) -> None:
    """Create a folder and those above.

    Raises:
        MedcoreError: The folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot create this folder ({error.strerror}); choose another `output`") from None
