"""On-disk record of a study: issued trials and finished trials.

    STUDY/trials/<trial_id>/params.json   issued; written before the trial starts
    STUDY/trials/<trial_id>/row.json      finished; read by `results.store.trials`, as everywhere

A trial with the first file and without the second was interrupted. It is issued again when the study is resumed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from medcore.errors import MedcoreError
from results.stats.old_words import params_of_today
from results.store.files import read_json, write_by_rename
from results.store.trial_row import TrialRow
from results.store.trials import read_row, trial_folder

#: Seconds after which a file that another node wrote is visible; NFS clients may take one minute.
_PATIENCE = 90.0
T = TypeVar("T")
_MEND = "delete the trial's folder to leave this trial out"


@dataclass(frozen=True)
class IssuedTrial:
    """A trial as the sampler issued it.

    Attributes:
        trial_id: Name of the trial and of its folder.
        number: Place in the study, from 0.
        seed: The trial's own seed.
        origin: `sampled`, `repeat of ID`, `average of ID`, or the name of a starting point.
        params: Parameters by name.
        sampler_state: What the sampler must remember of the trial, such as NSGA-II's generation.
        teaches: Whether the sampler learns from the trial. It cannot where the parameters do not describe the budget.
        repeats: The trial that this one repeats with another seed, or None.
        averages: The runs of one member whose weights this trial takes the mean of, the first run first; empty for a
            trial that is recovered.
    """

    trial_id: str
    number: int
    seed: int
    origin: str
    params: dict[str, Any]
    sampler_state: dict[str, Any] = field(default_factory=dict)
    teaches: bool = True
    repeats: str | None = None
    averages: Sequence[str] = ()

    @property
    def is_finalist(self) -> bool:
        """Whether the trial repeats another one or averages runs."""
        return self.repeats is not None or bool(self.averages)


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "number": int,
    "seed": int,
    "origin": str,
    "params": dict,
    "sampler_state": dict,
    "repeats": (str, NoneType),
    "averages": (list, tuple),
}


def write_issued(study: Path, issued: IssuedTrial) -> None:
    """Write `params.json` by rename.

    Raises:
        StorageError: The file cannot be written.
    """
    data = (json.dumps(asdict(issued), indent=1) + "\n").encode()
    write_by_rename(trial_folder(study, issued.trial_id) / "params.json", data)


def read_issued(study: Path, trial_id: str) -> IssuedTrial:
    """Return a trial as it was issued.

    Raises:
        MedcoreError: The file is absent or corrupt.
    """
    path = trial_folder(study, trial_id) / "params.json"
    try:
        issued = IssuedTrial(**read_json(path, _MEND))
        wrong = [name for name, kind in _KINDS.items() if not isinstance(getattr(issued, name), kind)]
        if wrong or issued.trial_id != trial_id or not all(isinstance(run, str) for run in issued.averages):
            raise TypeError
        return replace(issued, params=params_of_today(issued.params))
    except (TypeError, AttributeError):
        raise MedcoreError(f"{path}: corrupt; {_MEND}") from None


def is_visible(study: Path, trial_id: str, patience: float = _PATIENCE) -> bool:
    """Return whether this node sees an issued trial.

    Network storage may show it some seconds late.
    """
    path = trial_folder(study, trial_id) / "params.json"
    return _look(study, trial_id, lambda: path.is_file() or None, patience) is not None


def wait_for_file(study: Path, trial_id: str, name: str) -> Path:
    """Return the path of a file of a trial, once this node sees it.

    A file that is not there after the time that network storage needs is gone; its path is returned all the same.
    """
    path = trial_folder(study, trial_id) / name
    _look(study, trial_id, lambda: path.is_file() or None, _PATIENCE)
    return path


def visible_row(
    study: Path, trial_id: str, *, wait: bool = False, stop: threading.Event | None = None
) -> TrialRow | None:
    """Return a trial's row, which another node may just have written.

    Args:
        study: The study's folder.
        trial_id: The trial.
        wait: Whether the row is known to exist. It is then waited for until it is visible.
        stop: Ends the waiting when it is set.
    """
    return _look(study, trial_id, lambda: read_row(study, trial_id), _PATIENCE if wait else 0.0, stop)


def _look(
    study: Path, trial_id: str, find: Callable[[], T | None], patience: float, stop: threading.Event | None = None
) -> T | None:
    """Return what `find` finds in a trial's folder within `patience` seconds."""
    end, stop = time.monotonic() + patience, stop or threading.Event()
    while True:
        with suppress(OSError):  # NFS remembers which files are absent until their folder is read
            list(trial_folder(study, trial_id).iterdir())
        found = find()
        if found is not None or time.monotonic() >= end or stop.wait(1):
            return found


def all_issued(study: Path) -> list[IssuedTrial]:
    """Return every trial that was ever issued, by number."""
    folders = (path.parent.name for path in (study / "trials").glob("*/params.json"))
    return sorted((read_issued(study, name) for name in folders), key=lambda issued: issued.number)
