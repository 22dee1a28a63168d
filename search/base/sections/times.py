"""Measured time as the cost of a section: `cost: time` with the file of a table (method §5, time)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from medcore.budgets.limits import Metric
from medcore.budgets.prices import TIME, Prices, measured_prices
from medcore.models.spec import Architecture
from medcore.quality.time_table import read_time_table

#: A counted figure, or measured time.
Cost = Metric | Literal["time"]
#: Text of the key `times`.
DESCRIPTION = "cost time: file that `medcore latency TARGET --table FILE` wrote for this architecture"


def check_times(costs: Collection[Cost], times: Path | None) -> None:
    """Check that a table is given if, and only if, measured time is one of the costs.

    Raises:
        ValueError: It is not so.
    """
    if TIME in costs and times is None:
        raise ValueError("cost time needs `times`; measure a table with `medcore latency TARGET --table FILE`")
    if TIME not in costs and times is not None:
        named = " and ".join(costs)
        raise ValueError(f"times {times} serves cost time only, but the cost is {named}; leave one of them out")


def counted(cost: Cost) -> Metric:
    """Return the counted figure for what cannot meet measured time: `flops_paper` in its place."""
    return "flops_paper" if cost == "time" else cost


def prices_of(times: Path | None, arch: Architecture) -> Prices | None:
    """Read what the widths of an architecture cost in measured time.

    Args:
        times: File of the table; None if the cost is counted.
        arch: The dense architecture.

    Raises:
        MedcoreError: The file is missing or damaged, or belongs to another architecture.
    """
    return None if times is None else measured_prices(read_time_table(times, arch))


def absolute(times: Path | None) -> Path | None:
    """Return the same file with an absolute path."""
    return None if times is None else times.absolute()
