"""Processor seconds on disk, so that an interrupted benchmark charges what it has used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from results.store.files import read_json, write_json
from results.store.trials import trial_folder
from search.study.prepare import Report

_ADVICE = "start again with another --work"


class Charges:
    """Processor seconds of the statistics, by part.

    A part that is complete is not charged again when a later start reads it from the cache.
    """

    def __init__(self, file: Path) -> None:
        """Read the file if it exists.

        Raises:
            MedcoreError: The file is corrupt.
        """
        self._file = file
        self._parts: dict[str, dict[str, float]] = read_json(file, _ADVICE) if file.is_file() else {}

    def seconds(self, part: str) -> float:
        """Return the seconds of a part; 0 if it was never computed."""
        return self._parts.get(part, {}).get("seconds", 0.0)

    @contextmanager
    def charged(self, part: str) -> Iterator[Report]:
        """Charge the processor seconds of a block to a part.

        Yields:
            A callback for the jobs of the block. It saves the seconds so far.
        """
        known = self._parts.get(part, {})
        if known.get("complete"):
            yield lambda *_: None
            return
        before, since = known.get("seconds", 0.0), time.process_time()

        def save(complete: bool = False) -> None:
            self._parts[part] = {"seconds": before + time.process_time() - since, "complete": complete}
            write_json(self._file, self._parts)

        try:
            yield lambda *_: save()
        except BaseException:
            save()
            raise
        save(complete=True)


class TrialClock:
    """Processor seconds of one trial over all its starts, in `STUDY/trials/TRIAL/processor.json`."""

    def __init__(self, study: Path, trial_id: str, since: float) -> None:
        """Continue from the seconds on disk.

        Args:
            study: The study's folder.
            trial_id: The trial.
            since: `time.process_time` at this start of the trial.
        """
        self._file = _file(study, trial_id)
        self._before, self._since = trial_seconds(study, trial_id), since

    @property
    def now(self) -> float:
        """Seconds of this start so far."""
        return time.process_time() - self._since

    def save(self) -> None:
        """Write the seconds of all starts."""
        write_json(self._file, {"seconds": self._before + self.now})


def trial_seconds(study: Path, trial_id: str) -> float:
    """Return the processor seconds that a trial has used."""
    file = _file(study, trial_id)
    return float(read_json(file, _ADVICE)["seconds"]) if file.is_file() else 0.0


def _file(study: Path, trial_id: str) -> Path:
    return trial_folder(study, trial_id) / "processor.json"
