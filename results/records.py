"""Rows of a table as plain values, so that JSON holds every number in full."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


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
