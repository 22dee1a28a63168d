"""Measured time and memory of a study's models: `latency.json`, and the columns that join the trial table.

Each record holds a pruned model and the dense one, which took turns with it. Figures of different machines, numbers of
threads, precisions or versions of torch are not mixed. The table has those of the set-up that was measured last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcore.errors import MedcoreError
from medcore.files import locked
from medcore.quality.timing import Conditions, Latency, Timing
from results.stats.columns import DOUBT
from results.store.files import read_json, write_by_rename
from results.store.trial_row import TrialRow

FILE = "latency.json"
#: Column of the trial table with the set-up in words; the figures' names are those that `figures` gives.
DEVICE = "latency_device"
_MEND = "delete it, and `medcore latency` measures again"


@dataclass(frozen=True)
class Setup:
    """What figures depend on apart from the model.

    Attributes:
        device: Name of the GPU or CPU.
        threads: Of the CPU.
        autocast: Whether models ran in bfloat16.
        torch: Its version.
    """

    device: str
    threads: int
    autocast: bool
    torch: str

    def __str__(self) -> str:
        """Return the set-up in words."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.device}, {threads}, {'bfloat16' if self.autocast else 'float32'}, torch {self.torch}"


@dataclass(frozen=True)
class Record:
    """One measurement of a model and the dense one, which took turns.

    Attributes:
        trial_id: The model's trial, or its name.
        flops_fraction: Of the model's encoder, to compare with its time.
        batch: Images in a call.
        setup: What was measured on.
        measured: Date, ISO 8601, UTC.
        model: Figures of the model.
        dense: Figures of the dense model.
        conditions: How busy the machine was.
        accepted: Whether the user takes the figures as they are, in spite of `doubt`.
    """

    trial_id: str
    flops_fraction: float
    batch: int
    setup: Setup
    measured: str
    model: Latency
    dense: Latency
    conditions: Conditions = field(default_factory=Conditions)
    accepted: bool = False

    @property
    def doubt(self) -> str:
        """Return why no rule should use the times; empty if rules may."""
        if self.accepted:
            return ""
        return self.conditions.trouble or self.model.trouble or self.dense.trouble

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; those of the set-up are on the top level."""
        values = asdict(self)
        return {"trial_id": values.pop("trial_id"), **values.pop("setup"), **values}


def read_latency(study: Path) -> list[Record]:
    """Read all records of a study, the oldest first; none if nothing was measured.

    Raises:
        MedcoreError: The file is corrupt.
    """
    path = study / FILE
    if not path.is_file():
        return []
    try:
        records = [_record(value) for value in read_json(path, _MEND)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MedcoreError(f"{path}: corrupt ({type(error).__name__}: {error}); {_MEND}") from None
    return sorted(records, key=lambda record: record.measured)


def add_latency(study: Path, new: Sequence[Record]) -> None:
    """Add records to `latency.json`.

    New records replace those of the same trial, batch and set-up. Processes that add at the same time wait for one
    another.

    Raises:
        StorageError: The study cannot be written.
    """
    replaced = {(record.trial_id, record.batch, record.setup) for record in new}
    with locked(study / "latency.lock"):
        kept = [each for each in read_latency(study) if (each.trial_id, each.batch, each.setup) not in replaced]
        _write(study, [*kept, *new])


def accept_latency(study: Path) -> None:
    """Let rules use all times of a study as they are.

    Raises:
        StorageError: The study cannot be written.
    """
    with locked(study / "latency.lock"):
        _write(study, [replace(record, accepted=True) for record in read_latency(study)])


def latest(records: Sequence[Record]) -> list[Record]:
    """Return the records of the set-up that was measured last."""
    last = max(records, key=lambda record: record.measured, default=None)
    return [record for record in records if last is not None and record.setup == last.setup]


def trial_columns(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """Return columns of the trial table by trial, from records of one set-up."""
    columns: dict[str, dict[str, Any]] = {}
    for record in records:
        row = columns.setdefault(record.trial_id, {DEVICE: str(record.setup)})
        row.update(figures(record.batch, record.model, record.dense))
        if record.doubt:
            row[DOUBT + suffix(record.batch)] = record.doubt
    return columns


def dense_columns(records: Iterable[Record]) -> dict[str, float]:
    """Return the same figures of the dense model.

    The figures are medians over the dense model's turns with all other models.
    """
    turns: dict[str, list[float]] = {}
    for record in records:
        for name, value in figures(record.batch, record.dense, record.dense).items():
            turns.setdefault(name, []).append(value)
    return {name: float(np.median(values)) for name, values in turns.items()}


def figures(batch: int, model: Latency, dense: Latency) -> dict[str, float]:
    """Return the figures of one measurement by column name.

    They are `latency_ms` of a whole call, `encoder_ms`, both with `_iqr` (if there is one), `_cpu` (if known) and
    `_fraction` (of dense), and `peak_mb`. Names of a batch other than one end in `_batchN`. A call is of the whole
    batch.
    """
    values = {"peak_mb": model.peak_bytes / 1e6}
    for name, this, other in (
        ("latency_ms", model.whole, dense.whole),
        ("encoder_ms", model.encoder, dense.encoder),
    ):
        values[name] = this.median_ms
        values |= {
            f"{name}_{kind}": value for kind, value in (("iqr", this.iqr_ms), ("cpu", this.cpu_ms)) if value is not None
        }
        values[f"{name}_fraction"] = this.median_ms / other.median_ms
    return {name + suffix(batch): value for name, value in values.items()}


def timed_on(members: Iterable[TrialRow]) -> str | None:
    """Return what the members were timed on, one image a call; None if none was timed."""
    devices = (member.extra[DEVICE] for member in members if member.metrics.get("latency_ms") is not None)
    return next(devices, None)


def suffix(batch: int) -> str:
    """Return the end of a figure's name for this batch size."""
    return "" if batch == 1 else f"_batch{batch}"


def _write(study: Path, records: Sequence[Record]) -> None:
    values = [record.to_dict() for record in records]
    write_by_rename(study / FILE, (json.dumps(values, indent=1) + "\n").encode())


def _record(value: Mapping[str, Any]) -> Record:
    """Read a record.

    Raises:
        KeyError, TypeError, ValueError: The value is no record.
    """
    return Record(
        trial_id=str(value["trial_id"]),
        flops_fraction=float(value["flops_fraction"]),
        batch=_count(value["batch"]),
        setup=Setup(str(value["device"]), _count(value["threads"]), bool(value["autocast"]), str(value["torch"])),
        measured=str(value["measured"]),
        model=_latency(value["model"]),
        dense=_latency(value["dense"]),
        conditions=_conditions(value.get("conditions") or {}),
        accepted=bool(value.get("accepted", False)),
    )


def _count(value: Any) -> int:
    """Read a number from 1 on."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is no number of images or threads")
    return value


def _latency(value: Mapping[str, Any]) -> Latency:
    return Latency(_timing(value["encoder"]), _timing(value["whole"]), int(value["peak_bytes"]))


def _conditions(value: Mapping[str, Any]) -> Conditions:
    """Read conditions; those of earlier versions are not known."""
    return Conditions(*(_number(value, name) for name in ("waited", "others", "mhz")))


def _number(value: Mapping[str, Any], name: str) -> float | None:
    number = None if value.get(name) is None else float(value[name])
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{name} {number} is not finite")
    return number


def _timing(value: Mapping[str, Any]) -> Timing:
    timing = Timing(
        float(value["median_ms"]),
        _number(value, "iqr_ms"),
        int(value["repeats"]),
        **{name: _number(value, name) for name in ("low_ms", "high_ms", "cpu_ms")},
    )
    if not 0 < timing.median_ms < math.inf:
        raise ValueError(f"median_ms {timing.median_ms} is no time")
    return timing
