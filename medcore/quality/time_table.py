"""Measured times of the parts of an encoder by width, in a file (method §5, time).

A table belongs to one architecture, device and number of threads. This module needs no torch; `site_times` measures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.files import cannot_write, replacing
from medcore.models.architectures import architecture_from
from medcore.models.fields import is_number
from medcore.models.spec import Architecture, ModelSpec

#: First entry of the file.
FORMAT = "medcore-time-table-1"
_MEND = "measure it again with `medcore latency TARGET --table FILE`"


@dataclass(frozen=True)
class Conditions:
    """What times depend on apart from the widths.

    Attributes:
        device: name of the GPU or CPU.
        threads: CPU threads.
        batch: images in a call.
        autocast: whether the encoder ran in bfloat16.
        torch: its version.
    """

    device: str
    threads: int
    batch: int
    autocast: bool
    torch: str

    def __str__(self) -> str:
        """Return the conditions in words."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        images = f"{self.batch} image{'' if self.batch == 1 else 's'} a call"
        return f"{self.device}, {threads}, {images}, {'bfloat16' if self.autocast else 'float32'}, torch {self.torch}"


@dataclass(frozen=True)
class SiteTimes:
    """Times that the groups of one site add to an encoder.

    Attributes:
        widths: (N,) measured widths, rising from 0 to the dense width.
        ms: (N,) milliseconds, rising or equal, 0 at width 0.

    Raises:
        ValueError: the numbers are none of these.
    """

    widths: tuple[int, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        widths, times = np.array(self.widths), np.array(self.ms)
        if len(widths) != len(times) or len(widths) < 2 or widths[0] != 0 or not (np.diff(widths) > 0).all():
            raise ValueError(f"widths {list(self.widths)} must rise from 0, with one time each")
        if not np.isfinite(times).all() or times[0] != 0 or (np.diff(times) < 0).any():
            raise ValueError(f"times {list(self.ms)} must be finite and rise from 0")

    def at_all_widths(self) -> npt.NDArray[np.float64]:
        """Return the time of every width from 0 to the dense one, (G + 1,) (5.11).

        Straight lines join the measured widths. Widths below the first that was measured take as long as that one,
        because any group at all makes the part run.
        """
        found: npt.NDArray[np.float64] = np.interp(np.arange(self.widths[-1] + 1), self.widths[1:], self.ms[1:])
        found[0] = 0.0
        return found


@dataclass(frozen=True)
class TimeTable:
    """Times of an encoder's parts: the encoder takes `fixed_ms` plus the times of its sites.

    Attributes:
        arch: the dense architecture.
        conditions: what the times were measured on.
        measured: date, ISO 8601, UTC.
        fixed_ms: time of what no pruning removes; positive.
        dense_ms: measured time of the dense encoder; positive.
        sites: times of the S sites, in the order of `arch.sites`.

    Raises:
        ValueError: a number is out of range, or the sites are not those of the architecture.
    """

    arch: Architecture
    conditions: Conditions
    measured: str
    fixed_ms: float
    dense_ms: float
    sites: tuple[SiteTimes, ...]

    def __post_init__(self) -> None:
        for name in ("fixed_ms", "dense_ms"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        widths = tuple(site.widths[-1] for site in self.sites)
        if widths != self.arch.dense_widths:
            raise ValueError(f"the times end at widths {list(widths)}, not at {list(self.arch.dense_widths)}")

    def predict(self, spec: ModelSpec) -> float:
        """Return the time of an encoder of these widths in milliseconds (5.11)."""
        times = (site.at_all_widths()[width] for site, width in zip(self.sites, spec.widths, strict=True))
        return self.fixed_ms + float(sum(times))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        sites = zip(self.arch.sites, self.sites, strict=True)
        return {
            "format": FORMAT,
            "arch": self.arch.to_dict(),
            **vars(self.conditions),
            "measured": self.measured,
            "fixed_ms": self.fixed_ms,
            "dense_ms": self.dense_ms,
            "sites": {site.name: {"widths": list(times.widths), "ms": list(times.ms)} for site, times in sites},
        }


def write_time_table(path: Path, table: TimeTable) -> None:
    """Write a table as JSON, by rename.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(table.to_dict(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from None


def read_time_table(path: Path, arch: Architecture | None = None) -> TimeTable:
    """Read and check a table.

    Args:
        path: a file of `write_time_table`.
        arch: the architecture that the table has to be of; None for any.

    Raises:
        MedcoreError: the file is missing, is no table or is damaged, or belongs to another architecture.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: no readable time table ({error.strerror}); {_MEND}") from None
    except (ValueError, RecursionError) as error:
        raise MedcoreError(f"{path}: not JSON ({error}); {_MEND}") from None
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise ConfigError(f"{path}: no time table (its `format` is not {FORMAT}); {_MEND}")
    try:
        table = _table(values, str(path))
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise MedcoreError(f"{path}: damaged time table ({type(error).__name__}: {error}); {_MEND}") from None
    if arch is not None and table.arch != arch:
        ours, theirs = arch.to_dict(), table.arch.to_dict()
        differ = ", ".join(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
        raise ConfigError(
            f"{path}: holds times of {table.arch.name}, not of this {arch.name} (they differ in {differ}); {_MEND}"
        )
    return table


def _table(values: Mapping[str, Any], where: str) -> TimeTable:
    """Read a table from plain values.

    Raises:
        CheckpointError, KeyError, TypeError, ValueError: the values are no table.
    """
    arch = architecture_from(values["arch"], where)
    named = values["sites"]
    if unknown := set(named) - {site.name for site in arch.sites}:
        raise ValueError(f"sites {', '.join(sorted(unknown))} are unknown")
    return TimeTable(
        arch=arch,
        conditions=Conditions(
            device=str(values["device"]),
            threads=int(values["threads"]),
            batch=int(values["batch"]),
            autocast=bool(values["autocast"]),
            torch=str(values["torch"]),
        ),
        measured=str(values["measured"]),
        fixed_ms=_number(values["fixed_ms"]),
        dense_ms=_number(values["dense_ms"]),
        sites=tuple(_site(named[site.name]) for site in arch.sites),
    )


def _site(values: Mapping[str, Any]) -> SiteTimes:
    widths = values["widths"]
    if not all(is_number(width, int) for width in widths):
        raise ValueError(f"widths must be whole numbers, not {widths!r:.60}")
    return SiteTimes(tuple(widths), tuple(map(_number, values["ms"])))


def _number(value: Any) -> float:
    if not is_number(value, int, float):
        raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)
