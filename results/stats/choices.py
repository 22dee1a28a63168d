"""What a trial chose apart from its budget, in a few words: criterion, schedule and side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

_KEYS = ("criterion", "blend", "order", "rounds", "rescore")


class Chooser(Protocol):
    """What is needed of a trial's row; `results.store.trial_row.TrialRow` has it."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Sampled parameters."""

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """Scoring weights that the trial used."""


def schedule_summary(row: Chooser) -> str:
    """Say what a trial chose: `fisher + medcore, 2 rounds, fresh scores, together, 768 px`.

    The text is empty if the study knows no such choice.
    """
    criterion, blend, order, rounds, rescore = (row.params.get(key) for key in _KEYS)
    if row.weights is not None:  # what ran, because a start made by hand may lie outside the space
        criterion, blend = row.weights.get("criterion"), row.weights.get("blend")
    if criterion is None or order is None or not _is_finite(rounds):
        return ""
    name = str(criterion)
    if criterion != "medcore" and _is_finite(blend) and blend < 1:
        name += " + medcore"
    parts = [name, f"{int(rounds)} round{'' if int(rounds) == 1 else 's'}"]
    # fresh scores need a second round
    parts += ["fresh scores"] if rescore and int(rounds) > 1 else []
    parts.append(str(order).replace("_", " ").replace("mlp", "MLP"))
    parts += [f"{int(side)} px"] if _is_finite(side := row.params.get("side")) else []
    return ", ".join(parts)


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def schedules_differ(rows: Sequence[Chooser]) -> bool:
    """Return whether the trials chose differently, so that it is worth a column."""
    return len({schedule_summary(row) for row in rows}) > 1
