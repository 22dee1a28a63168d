"""What a search optimises: names, directions, and what a failed or non-finite trial counts as (nothing)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from results.front import Objective as ObjectiveRecord
from results.labels import is_cost

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """A key of the trial row, and whether it should go down (`min`) or up (`max`)."""

    name: str
    direction: Literal["min", "max"]

    @property
    def optuna_direction(self) -> str:
        return "minimize" if self.direction == "min" else "maximize"

    def record(self) -> ObjectiveRecord:
        """As `results` and `study.json` know it."""
        return ObjectiveRecord(**asdict(self))

    def better(self, this: float, other: float) -> bool:
        """Whether `this` is strictly better than `other`."""
        return this < other if self.direction == "min" else this > other


def values_of(row: Row | None, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """A row's objective values in natural sign; None if the trial failed or any value is absent or non-finite."""
    if row is None or row.get("status") != "done":
        return None
    values = [row.get(objective.name) for objective in objectives]
    if not all(_is_number(value) and math.isfinite(value) for value in values if value is not None):
        return None
    return None if None in values else tuple(float(value) for value in values if value is not None)


def reference_point(
    dense: Mapping[str, float], objectives: Sequence[Objective], worst: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Hypervolume's reference in natural sign, fixed before the first trial from the dense model's metrics.

    Costs: 1.01 times the dense model's, so that the dense model itself adds volume. What goes up: 0. Any other that goes
    down: its value in `worst` (what a model that finds nothing gets), else ten times the dense model's.
    Raises `KeyError` for an objective that the dense model lacks.
    """
    reference = {}
    for objective in objectives:
        name, value = objective.name, float(dense[objective.name])
        if objective.direction == "max":
            reference[name] = 0.0
        elif is_cost(name):
            reference[name] = 1.01 * value
        else:
            reference[name] = float((worst or {}).get(name, max(10 * value, 1.0)))
    return reference


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
