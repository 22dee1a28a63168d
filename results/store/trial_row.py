"""The record of one finished trial, and its flat form for JSON, Parquet and MLflow.

`TrialRow.to_flat` and `TrialRow.from_flat` are the only code that knows how a record is laid out in columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from results.stats.columns import FIDELITY, HELD_OUT, PARAM, SEED_SD, SEEDS, SINGLE, STAGE, group, prefixed
from results.stats.labels import base_name
from results.stats.old_words import params_of_today
from results.store.files import is_finite, is_number, plain_record

Status = Literal["done", "failed", "stopped"]

REQUIRED = ("trial_id", "number", "status")
STATUSES: tuple[Status, ...] = ("done", "failed", "stopped")
#: Columns that every row has.
IDENTITY = (*REQUIRED, "reason", "seed", "origin")
_MEMORY = ("memory_mb", "gpu_memory_mb")
#: Columns of a fixed name that hold neither metric nor budget.
_NAMED = {
    *(*IDENTITY, "repeats", *_MEMORY, "seconds", "started", "finished"),
    *("weights", "checkpoint", "versions", "git", "finetune"),
}
_TEXTS = ("reason", "origin", "repeats", "checkpoint", "started", "finished", "git")
_NUMBERS = ("seed", "seconds", *_MEMORY, SEEDS)
_NUMBER_GROUPS = (STAGE, FIDELITY, HELD_OUT, SEED_SD, SINGLE)
_REASON_LENGTH = 300


@dataclass(frozen=True)
class Timing:
    """When a trial ran and where its time went.

    Attributes:
        seconds: Whole time of the trial.
        stages: Seconds by stage, such as `recovery`.
        started: ISO 8601, UTC.
        finished: ISO 8601, UTC.
    """

    seconds: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None

    @classmethod
    def since(cls, started: datetime) -> Self:
        """Return the timing of a trial that began at `started` and ends now.

        `started` has a time zone.
        """
        now = datetime.now(UTC)
        return cls((now - started).total_seconds(), {}, started.isoformat(), now.isoformat())


@dataclass(frozen=True)
class Provenance:
    """What made a row: versions of packages by name, and the code's git revision."""

    versions: Mapping[str, str] | None = None
    git: str | None = None


@dataclass(frozen=True)
class TrialRow:
    """The record of one finished trial.

    Attributes:
        trial_id: Name of the trial and of its folder.
        number: Place in the study, from 0.
        status: `done`, `failed`, or `stopped` by a scheduler before its end.
        reason: Why the trial failed or stopped, or what is to be known of a trial that is done.
        seed: The trial's own seed.
        origin: `sampled`, `repeat of ID`, `average of ID`, or the name of a starting point.
        repeats: The trial that this one repeats with another seed.
        params: Sampled parameters by name.
        metrics: Figures by name: quality, costs, leverage, measured time; None where a figure is unknown.
        budget: Groups that each site keeps, by family, in the order of the sites.
        weights: Scoring weights that the trial used.
        checkpoint: The model's file, relative to the study.
        timing: When the trial ran and where its time went.
        memory: Peaks in megabytes: `memory_mb` and, with a GPU, `gpu_memory_mb`.
        provenance: Versions and git revision.
        held_out: Means over held-out images, by metric.
        fine_tuned: Settings of a training after the search; the figures are then those of the trained model.
        fidelities: Figures before the trial's end, by `NAME/METRIC` with the fidelity's name.
        extra: Columns that fit nowhere above, such as the device of time measurements.
    """

    trial_id: str
    number: int
    status: Status
    reason: str | None = None
    seed: int | None = None
    origin: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    timing: Timing = field(default_factory=Timing)
    memory: Mapping[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    held_out: Mapping[str, float] = field(default_factory=dict)
    fine_tuned: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    repeats: str | None = None
    fidelities: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the identity.

        Raises:
            ValueError: The id, the number, the status or the repeated trial is missing or wrong.
        """
        if problem := problem_of({name: getattr(self, name) for name in (*REQUIRED, "repeats")}):
            raise ValueError(f"trial row: {problem}")

    @classmethod
    def done(cls, trial: Mapping[str, Any], **fields: Any) -> Self:
        """Return the row of a completed trial.

        Args:
            trial: `trial_id`, `number`, `seed`, `origin` and `params` of the trial as it was issued, and `repeats` if
                it repeats another one.
            fields: Further attributes; `params` here replaces those that were issued.
        """
        return cls(**{**_issued(trial), "status": "done", **fields})

    @classmethod
    def failed(cls, trial: Mapping[str, Any], reason: str, started: datetime) -> Self:
        """Return the row of a trial that could not be completed and ends now.

        Args:
            trial: As for `done`.
            reason: Cut to its first line that is not empty.
            started: When the trial began, with time zone.
        """
        lines = [line.strip() for line in reason.splitlines() if line.strip()]
        short = lines[0][:_REASON_LENGTH] if lines else "unknown"
        return cls(**_issued(trial), status="failed", reason=short, timing=Timing.since(started))

    @classmethod
    def stopped(
        cls, trial: Mapping[str, Any], phase: str, started: datetime, fidelities: Mapping[str, float] | None = None
    ) -> Self:
        """Return the row of a trial that a scheduler stops now.

        Args:
            trial: As for `done`.
            phase: The last phase of the trial.
            started: When the trial began, with time zone.
            fidelities: Figures that the trial had so far, as the attribute.
        """
        reason, timing = f"stopped by the scheduler after {phase}", Timing.since(started)
        return cls(**_issued(trial), status="stopped", reason=reason, timing=timing, fidelities=fidelities or {})

    @property
    def is_done(self) -> bool:
        """Whether the trial was completed."""
        return self.status == "done"

    def figure(self, name: str) -> float | None:
        """Return the number of this column; None where there is none or it is not finite."""
        value = self.metrics[name] if name in self.metrics else self.to_flat().get(name)
        return float(value) if is_finite(value) else None

    def to_flat(self) -> dict[str, Any]:
        """Return the columns by name, in the order of a row file.

        Columns that the trial lacks are left out.
        """
        later: dict[str, Any] = {
            "weights": self.weights,
            **{family: list(kept) for family, kept in self.budget.items()},
        }
        later |= {"checkpoint": self.checkpoint, "seconds": self.timing.seconds, **prefixed(STAGE, self.timing.stages)}
        later |= {**self.memory, **prefixed(HELD_OUT, self.held_out), "finetune": self.fine_tuned}
        later |= {"repeats": self.repeats, **prefixed(FIDELITY, self.fidelities)}
        later |= {"started": self.timing.started, "finished": self.timing.finished}
        later |= {"versions": self.provenance.versions, "git": self.provenance.git}
        return {
            **{name: getattr(self, name) for name in IDENTITY},
            **prefixed(PARAM, self.params),
            **self.extra,
            **self.metrics,
            **{name: value for name, value in later.items() if value is not None},
        }

    @classmethod
    def from_flat(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of a row of columns, whichever version wrote it.

        Args:
            row: Columns by name. A list of integers is the budget of the family that names the column. A parameter,
                a stage and a held-out mean that are None count as absent.

        Raises:
            ValueError: The id, the number, the status or the repeated trial is missing or wrong, or a measured column
                holds no number.
        """
        if problem := problem_of(row):
            raise ValueError(f"trial row: {problem}")
        grouped = {prefix: _known(group(prefix, row)) for prefix in (PARAM, STAGE, HELD_OUT, FIDELITY)}
        rest = {key: value for key, value in row.items() if key not in _NAMED and not key.startswith(tuple(grouped))}
        budget = {key: kept for key, value in rest.items() if (kept := _widths(value)) is not None}
        metrics = {key: value for key, value in rest.items() if value is None or is_number(value)}
        return cls(
            trial_id=row["trial_id"],
            number=int(row["number"]),
            status=row["status"],
            reason=row.get("reason"),
            seed=row.get("seed"),
            origin=row.get("origin"),
            repeats=row.get("repeats"),
            params=params_of_today(grouped[PARAM]),
            metrics=metrics,
            budget=budget,
            weights=_mapping(row.get("weights")),
            checkpoint=None if row.get("checkpoint") is None else str(row["checkpoint"]),
            timing=Timing(row.get("seconds"), grouped[STAGE], row.get("started"), row.get("finished")),
            memory=_known({name: row.get(name) for name in _MEMORY}),
            provenance=Provenance(_mapping(row.get("versions")), row.get("git")),
            held_out=grouped[HELD_OUT],
            fidelities=grouped[FIDELITY],
            fine_tuned=_mapping(row.get("finetune")),
            extra={key: value for key, value in rest.items() if key not in budget and key not in metrics},
        )


def row_of(record: Mapping[Any, Any] | pd.Series) -> TrialRow:
    """Return the record of a row of a trial table; missing values count as None."""
    return TrialRow.from_flat(plain_record(record))


def problem_of(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the identity or the measured columns of a row, or None."""
    if missing := [key for key in REQUIRED if row.get(key) is None]:
        return f"{', '.join(missing)} is missing"
    if not isinstance(row["trial_id"], str) or not isinstance(row["number"], (int, np.integer)):
        return "trial_id must be text and number an integer"
    if not is_folder_name(row["trial_id"]):
        return "trial_id is no folder name"
    first = row.get("repeats")
    if first is not None and (not isinstance(first, str) or not is_folder_name(first) or first == row["trial_id"]):
        return "repeats names no other trial"
    if wrong := [key for key, value in row.items() if value is not None and _is_measured(key) and not is_number(value)]:
        return f"{', '.join(wrong)} must be a number"
    if wrong := [key for key in _TEXTS if row.get(key) is not None and not isinstance(row[key], (str, Path))]:
        return f"{', '.join(wrong)} must be text"
    return None if row["status"] in STATUSES else f"status '{row['status']}' is none of {', '.join(STATUSES)}"


def _is_measured(column: str) -> bool:
    """Return whether a column holds a number: a figure of the registry or its variants, a time, memory, a mean."""
    return column in _NUMBERS or column.startswith(_NUMBER_GROUPS) or _is_figure(column)


@cache
def _is_figure(column: str) -> bool:
    return base_name(column) is not None


def is_folder_name(trial_id: str) -> bool:
    """Return whether a trial's id can name a folder of its own."""
    return bool(trial_id) and not trial_id.startswith(".") and Path(trial_id).name == trial_id


def _issued(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity and the parameters, less those that are mappings.

    A budget that was made by hand has columns of its own.
    """
    fields = {name: trial[name] for name in ("trial_id", "number", "seed", "origin")}
    fields["repeats"] = trial.get("repeats")
    return fields | {"params": {key: value for key, value in trial["params"].items() if not isinstance(value, Mapping)}}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _widths(value: Any) -> tuple[int, ...] | None:
    """Return the counts of a list or array of whole numbers; None for anything else, and if there are none."""
    counts = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(counts, (list, tuple)) or not counts:
        return None
    if not all(is_finite(count) and count == int(count) for count in counts):
        return None
    return tuple(int(count) for count in counts)
