"""Atomic files, checked JSON, and conversion of values to JSON types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError, brief
from medcore.files import cannot_write, replacing

#: Whole numbers fit into 64 bits, in files of ours and in Parquet's.
LARGEST = 2**63 - 1
#: Levels of nesting in a JSON file; a row with the settings of a training has five.
_LEVELS = 30


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
        MedcoreError: The file is missing, is no JSON or holds what no program of ours writes; the message ends in
            `advice`.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MedcoreError(f"{path}: missing; {advice}") from None
    except RecursionError:
        raise MedcoreError(f"{path}: corrupt (nested too deeply); {advice}") from None
    except (OSError, ValueError) as error:  # ValueError also for integers of thousands of digits
        raise MedcoreError(f"{path}: corrupt ({brief(error, first=200)}); {advice}") from None
    if problem := _unusable(value):
        raise MedcoreError(f"{path}: corrupt ({problem}); {advice}")
    return value


def _unusable(value: Any) -> str | None:
    """Return what no writer of ours puts into a JSON value and no reader could use, None for a good value."""
    level, rest = 0, [value]
    while rest:
        level += 1
        if level > _LEVELS:
            return "nested too deeply"
        inner: list[Any] = []
        for each in rest:
            if isinstance(each, dict):
                inner += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not _is_text(each):
                return "text holds half of a surrogate pair"
            elif isinstance(each, int) and abs(each) > LARGEST:
                return "a whole number is too large"
        rest = inner
    return None


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


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
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def make_folder(path: Path) -> None:
    """Create a folder and those above.

    Raises:
        MedcoreError: The folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot create this folder ({error.strerror}); choose another `output`") from None
