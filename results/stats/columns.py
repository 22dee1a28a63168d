"""Names of the columns of a trial table that come in groups, each group with a prefix of its own.

    param/NAME      a sampled parameter
    seconds/STAGE   time that a stage of the trial took
    report/METRIC   mean over held-out images

`results.store.trial_row.TrialRow` builds and takes apart such names; tables ask here which group a column is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PARAM = "param/"
STAGE = "seconds/"
#: Held-out means. Nothing is ever chosen by them.
HELD_OUT = "report/"


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under column names that begin with `prefix`."""
    return {f"{prefix}{name}": value for name, value in values.items()}


def group(prefix: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of the columns that begin with `prefix`, by name without it."""
    return {str(key).removeprefix(prefix): value for key, value in row.items() if str(key).startswith(prefix)}


def param_columns(columns: Iterable[Any]) -> list[str]:
    """Return the columns that hold sampled parameters.

    A data frame iterates over its columns.
    """
    return [str(name) for name in columns if str(name).startswith(PARAM)]


def held_out_columns(columns: Iterable[Any]) -> list[str]:
    """Return the columns that hold held-out means."""
    return [str(name) for name in columns if str(name).startswith(HELD_OUT)]
