"""What a search optimises: values of a row, and the hypervolume's reference point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medcore.quality.figures import FIGURES, Metric
from results.stats.labels import base_name, is_cost
from results.stats.objectives import Objective
from results.store.trial_row import TrialRow


def values_of(row: TrialRow | None, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """Return a row's objective values in natural sign.

    The result is None if the row is not done or any value is no finite number.
    """
    if row is None or not row.is_done:
        return None
    values = [row.figure(objective.name) for objective in objectives]
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(objectives) else None


def last_fidelity(row: TrialRow | None, objectives: Sequence[Objective]) -> tuple[int, tuple[float, ...] | None]:
    """Return how many fidelities a row has figures of, and its objective values at the last one.

    Values are in natural sign. They are None if there is no fidelity or any of them is missing there.
    """
    names = [] if row is None else list(dict.fromkeys(key.partition("/")[0] for key in row.fidelities))
    if row is None or not names:
        return 0, None
    values = [row.fidelities.get(f"{names[-1]}/{objective.name}") for objective in objectives]
    known = tuple(value for value in values if value is not None)
    return len(names), known if len(known) == len(objectives) else None


def reference_point(
    objectives: Sequence[Objective], dense: Mapping[str, float], largest_side: int, largest_mm: float = 0.0
) -> dict[str, float]:
    """Return the hypervolume's reference in natural sign.

    The reference is fixed before the first trial. It is a metric's worst possible value (`Metric.worst_value`). Other
    objectives count from 0 if more is better and from `largest_side` if less is better. If less is better, the
    reference is at least 1.01 times the dense model's value, and exactly that for a cost, so that the dense model
    itself adds volume.

    Args:
        objectives: What is optimised.
        dense: Figures of the dense model by name.
        largest_side: Of any search image at its original size, in pixels. HD95 is measured at that size and gives
            the frame's largest side to a missed object, so no trial's mean lies beyond it.
        largest_mm: The same in millimetres, for metrics that need the pixel spacing.

    Raises:
        KeyError: The dense model lacks an objective.
    """
    reference = {}
    for objective in objectives:
        value = 1.01 * float(dense[objective.name])
        if objective.lower_is_better and is_cost(objective.name):
            reference[objective.name] = value
        else:
            worst = _worst(objective, largest_side, largest_mm)
            reference[objective.name] = max(worst, value) if objective.lower_is_better else worst
    return reference


def _worst(objective: Objective, largest_side: int, largest_mm: float) -> float:
    base = base_name(objective.name)
    figure = None if base is None else FIGURES[base]
    if isinstance(figure, Metric) and figure.lower_is_better == objective.lower_is_better:
        return figure.worst(largest_mm if figure.needs_spacing else largest_side)
    return float(largest_side) if objective.lower_is_better else 0.0
