"""What one phase of a trial led to, and what a worker reports of it to Tune.

This module needs no torch, so that workers of any search can load it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Required, TypedDict

from results.store.trial_row import TrialRow


@dataclass(frozen=True)
class PhaseResult:
    """What one phase of a trial led to.

    Attributes:
        name: The phase, such as `r2/mlp_recovery` or `evaluation`.
        figures: Figures by name.
        row: The trial's row, given by the last phase only.
        following: The phase that comes next, in words; empty if that has not changed.
    """

    name: str
    figures: Mapping[str, float] = field(default_factory=dict)
    row: TrialRow | None = None
    following: str = ""


class StepResult(TypedDict, total=False):
    """One report. Tune adds keys of its own.

    Attributes:
        done: Whether the worker has done all that it will do for the trial.
        phase: The phase that the step performed.
        figures: The phase's figures by name.
        following: The phase that comes next, in words.
        row_written: Whether the trial's row is on disk, although not every node may see it yet. Only where `done`.
        trouble: Why files cannot be written. There is no row then, and no fault of the trial's.
        unfit: Why the worker's node should run no trial.
        node: Id of that node.
    """

    done: Required[bool]
    phase: str
    figures: dict[str, float]
    following: str
    row_written: bool
    trouble: str
    unfit: str
    node: str


def is_last(result: Mapping[str, Any] | None) -> bool:
    """Return whether the worker itself ended the trial with this report.

    `done` does not tell, because Tune sets it too when a scheduler stops a trial.
    """
    return result is not None and any(key in result for key in ("row_written", "trouble", "unfit"))
