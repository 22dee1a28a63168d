"""Words that older versions wrote into configurations and rows, and what they mean today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results.stats.columns import PARAM

_TRUTH_VALUES = {"yes": True, "no": False}


def truth_value(value: Any) -> Any:
    """Return the boolean that `yes` or `no` stands for; any other value as it is."""
    return _TRUTH_VALUES.get(value, value) if isinstance(value, str) else value


def params_of_today(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return sampled parameters as a search draws them today.

    No parameter takes `yes` or `no` as a word any more.
    """
    return {name: truth_value(value) for name, value in params.items()}


def row_of_today(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of columns with sampled parameters as a search draws them today."""
    return {key: truth_value(value) if key.startswith(PARAM) else value for key, value in row.items()}
