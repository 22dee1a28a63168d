"""What one phase of a trial led to. This module needs no torch, so that workers of any search can load it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from results.store.trial_row import TrialRow


@dataclass(frozen=True)
class PhaseResult:
    """What one phase of a trial led to.

    Attributes:
        name: The phase, such as `r2/mlp_recovery` or `evaluation`.
        figures: Figures by name.
        row: The trial's row, given by the last phase only.
    """

    name: str
    figures: Mapping[str, float] = field(default_factory=dict)
    row: TrialRow | None = None
