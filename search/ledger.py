"""The driver's book on disk: which trials were handed out, which have ended, and who may write.

    STUDY/trials/<trial_id>/params.json   handed out; written before the trial starts
    STUDY/trials/<trial_id>/node          id of the Ray node that it was last begun on
    STUDY/trials/<trial_id>/row.json      ended; read by `results.trials`, as everywhere
    STUDY/search.lock                     held by the driver's process; a killed one leaves it free

A trial with the first and without the second was interrupted, and is handed out again when the study is resumed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from results.files import read_json, write_by_rename
from results.trials import Row, trial_folder

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


def write_place(study: Path, trial_id: str, node: str) -> None:
    """Note on which node a trial begins. Raises `StorageError` if that cannot be written."""
    write_by_rename(trial_folder(study, trial_id) / "node", node.encode())


def read_place(study: Path, trial_id: str) -> str | None:
    """The node that a trial was last begun on, if any."""
    path = trial_folder(study, trial_id) / "node"
    return path.read_text() if path.is_file() else None


def forget_place(study: Path, trial_id: str) -> None:
    """Remove what `read_place` reads."""
    with suppress(OSError):  # a note, and the next start writes another
        (trial_folder(study, trial_id) / "node").unlink(missing_ok=True)


def is_visible(study: Path, trial_id: str, patience: float = 60.0) -> bool:
    """Whether what was handed out can be seen from here; network storage may show it some seconds late."""
    path, end = trial_folder(study, trial_id) / "params.json", time.monotonic() + patience
    while not path.is_file():
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


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


def is_driven(study: Path) -> bool:
    """Whether a search holds the study's lock."""
    try:
        handle = os.open(study / "search.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


#: Studies whose lock this process holds.
_held: set[Path] = set()


@contextmanager
def only_driver(study: Path) -> Iterator[None]:
    """Hold the study's lock; inside of it again is fine. Raises `MedcoreError` if another process holds it.

    The kernel drops the lock when the process ends, however it ends, so none is ever stale.
    """
    study = study.absolute()
    if study in _held:
        yield
        return
    path = study / "search.lock"
    try:
        study.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise MedcoreError(f"{path}: cannot be written ({error.strerror}); choose another `output`") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(handle, 100, 0).decode(errors="replace").strip() or "unknown"
            raise MedcoreError(
                f"{study}: another search is writing to this study (process {owner}); wait for it or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        _held.add(study)
        yield
    finally:
        _held.discard(study)
        os.close(handle)
