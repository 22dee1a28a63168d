"""The driver's book on disk: which trials were handed out, which have ended, and who may write.

    STUDY/trials/<trial_id>/params.json   handed out; written before the trial starts
    STUDY/trials/<trial_id>/row.json      ended; read by `results.store.trials`, as everywhere
    STUDY/search.lock                     held by the driver's process; a killed one leaves it free

A trial with the first and without the second was interrupted, and is handed out again when the study is resumed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from medcore.errors import MedcoreError
from results.store.files import read_json, write_by_rename
from results.store.trials import Row, read_row, trial_folder

#: Key of Tune's result: the trial's row is on disk, although it may not be seen from everywhere yet.
ROW_WRITTEN = "row_written"

#: Seconds after which a file that another node has written can be seen; NFS clients may take one minute.
_PATIENCE = 90.0
T = TypeVar("T")
_MEND = "delete the trial's folder to leave this trial out"


@dataclass(frozen=True)
class Issued:
    """A trial as it was handed out. `sampler_state`: what the sampler must remember of it (NSGA-II's generation)."""

    trial_id: str
    number: int
    seed: int
    origin: str
    params: dict[str, Any]
    sampler_state: dict[str, Any] = field(default_factory=dict)


def write_issued(study: Path, issued: Issued) -> None:
    """Write `params.json` by rename."""
    data = (json.dumps(asdict(issued), indent=1) + "\n").encode()
    write_by_rename(trial_folder(study, issued.trial_id) / "params.json", data)


def read_issued(study: Path, trial_id: str) -> Issued:
    """Raises `MedcoreError` if the file is absent or corrupt."""
    path = trial_folder(study, trial_id) / "params.json"
    try:
        return Issued(**read_json(path, _MEND))
    except TypeError:
        raise MedcoreError(f"{path}: corrupt; {_MEND}") from None


def is_visible(study: Path, trial_id: str, patience: float = _PATIENCE) -> bool:
    """Whether what was handed out can be seen from here; network storage may show it some seconds late."""
    path = trial_folder(study, trial_id) / "params.json"
    return _look(study, trial_id, lambda: path.is_file() or None, patience) is not None


def visible_row(study: Path, trial_id: str, *, wait: bool = False, stop: threading.Event | None = None) -> Row | None:
    """A trial's row, which another node may just have written.

    `wait`: it is known to be there, so it is waited for if it cannot be seen yet, unless `stop` is set meanwhile.
    """
    return _look(study, trial_id, lambda: read_row(study, trial_id), _PATIENCE if wait else 0.0, stop)


def _look(
    study: Path, trial_id: str, find: Callable[[], T | None], patience: float, stop: threading.Event | None = None
) -> T | None:
    """What `find` finds in a trial's folder within so many seconds."""
    end, stop = time.monotonic() + patience, stop or threading.Event()
    while True:
        with suppress(OSError):  # NFS remembers which files are absent until their folder is read
            list(trial_folder(study, trial_id).iterdir())
        found = find()
        if found is not None or time.monotonic() >= end or stop.wait(1):
            return found


def all_issued(study: Path) -> list[Issued]:
    """Every trial that was ever handed out, by number."""
    folders = (path.parent.name for path in (study / "trials").glob("*/params.json"))
    return sorted((read_issued(study, name) for name in folders), key=lambda issued: issued.number)


def failed_row(issued: Issued, reason: str, started: datetime) -> Row:
    """The row of a trial that could not be completed; the reason is cut to one line."""
    now = datetime.now(UTC)
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return {
        "trial_id": issued.trial_id,
        "number": issued.number,
        "status": "failed",
        "reason": lines[0][:300] if lines else "unknown",
        "seed": issued.seed,
        "origin": issued.origin,
        **{f"param/{key}": value for key, value in issued.params.items() if not isinstance(value, Mapping)},
        "seconds": (now - started).total_seconds(),
        "started": started.isoformat(),
        "finished": now.isoformat(),
    }
