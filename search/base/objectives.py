"""What a search optimises: names, directions, and what a failed or non-finite trial counts as (nothing)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from results.stats.labels import is_cost
from results.stats.pareto import Objective as ObjectiveRecord

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """A key of the trial row, and whether it should go down (`min`) or up (`max`)."""

    name: str
    direction: Literal["min", "max"]

    @property
    def optuna_direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.direction == "min" else "maximize"

    def record(self) -> ObjectiveRecord:
        """As `results` and `study.json` know it."""
        return ObjectiveRecord(name=self.name, direction=self.direction)

    def better(self, this: float, other: float) -> bool:
        """Whether `this` is strictly better than `other`."""
        return this < other if self.direction == "min" else this > other


def values_of(row: Row | None, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """A row's objective values in natural sign; None if the trial failed or any value is absent or non-finite."""
    if row is None or row.get("status") != "done":
        return None
    values = (row.get(objective.name) for objective in objectives)
    finite = [float(value) for value in values if _is_number(value) and math.isfinite(value)]
    return tuple(finite) if len(finite) == len(objectives) else None


def reference_point(objectives: Sequence[Objective], dense: Mapping[str, float], largest_side: int) -> dict[str, float]:
    """Hypervolume's reference in natural sign, fixed before the first trial.

    Costs: 1.01 times the dense model's, so that the dense model itself adds volume. What goes up: 0. Distances
    and others that go down: `largest_side`, or 1.01 times the dense model's value where that is larger. Raises
    `KeyError` for an objective that the dense model lacks.

    Args:
        largest_side: of any search image at its original size, in pixels. HD95 is measured at that size and gives
            the frame's largest side to a missed object, so no trial's mean lies beyond it.
    """
    reference = {}
    for objective in objectives:
        value = float(dense[objective.name])
        if objective.direction == "max":
            reference[objective.name] = 0.0
        elif is_cost(objective.name):
            reference[objective.name] = 1.01 * value
        else:
            reference[objective.name] = max(float(largest_side), 1.01 * value)
    return reference


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
