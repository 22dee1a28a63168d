"""Run one start of a trial in this process, phase by phase, and handle every failure."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError, StorageError
from medcore.files import chain, is_storage_trouble
from results.store.files import write_by_rename
from results.store.trial_row import TrialRow
from results.store.trials import read_row, trial_folder, write_row
from search.trials.attempt import Attempt, Superseded, begin
from search.trials.ledger import IssuedTrial, read_issued, visible_row
from search.trials.phase_result import PhaseResult, StepResult

logger = logging.getLogger(__name__)

#: `work(trial, **shared)` returns the trial's row, or yields a `PhaseResult` for each phase, the last with the row.
#: `trial` holds the fields of `search.trials.ledger.IssuedTrial`, study_dir and attempt.
Work = Callable[..., TrialRow | Iterator[PhaseResult]]

#: Yields the result of each phase, the last with the row.
Steps = Generator[PhaseResult, None, None]


class DeviceLost(RuntimeError):
    """Ends the worker process.

    Tune tries the trial again in a new process, which finds the row and reports it.
    """


class TrialRun:
    """Does a trial's work unless its row exists.

    An exception in the work ends as a failed row.

    An exception's traceback goes to `error.txt` in the trial's folder. A full or read-only disk is no fault of the
    trial: then there is no row, and the trial runs again when the study is resumed. There is no row either if the
    trial was started again elsewhere meanwhile.
    """

    def __init__(self, work: Work, study: Path, trial_id: str, shared: Mapping[str, Any], node: str) -> None:
        """Prepare a run on the Ray node with the id `node`.

        Nothing happens before the first step.
        """
        self._work = work
        self._study = study
        self._trial_id = trial_id
        self._shared = shared
        self._node = node
        self._started = datetime.now(UTC)
        self._issued: IssuedTrial | None = None
        self._attempt: Attempt | None = None
        self._phases: Steps | None = None

    def step(self) -> StepResult:
        """Perform the next phase and return what to report.

        Raises:
            DeviceLost: This process can run no further trial. The trial's row is on disk.
            StorageError: The start of the trial cannot be written down.
            MedcoreError: The trial's own files are corrupt.
        """
        if self._phases is None:
            if visible_row(self._study, self._trial_id) is not None:  # a worker died between its row and its report
                return {"done": True, "row_written": True}
            attempt = begin(self._study, self._trial_id, self._node)
            self._issued = read_issued(self._study, self._trial_id)
            self._phases = self._run(self._issued, attempt)
            self._attempt = attempt
        assert self._attempt is not None
        error: Exception | None = None
        try:
            phase = next(self._phases)
        except Exception as caught:  # noqa: BLE001 - a study outlives any trial; the reason is in the row
            error = caught
        if error is not None:
            return self._fail(error, self._attempt)
        report: StepResult = {"done": phase.row is not None, "phase": phase.name, "figures": dict(phase.figures)}
        if phase.following:
            report["following"] = phase.following
        if phase.row is not None:
            self.close()
            report["row_written"] = self._has_row()
        return report

    def close(self) -> None:
        """Give up the phases that are left, and the memory that the work holds."""
        phases, self._phases = self._phases, None
        if phases is None:
            return
        try:
            phases.close()
        except Exception as error:  # noqa: BLE001 - the work's own clean-up; what counts of the trial is on disk
            logger.warning("trial %s: its work could not be ended: %s", self._trial_id, error)

    def _run(self, issued: IssuedTrial, attempt: Attempt) -> Steps:
        """Do the work; write the row after the last phase."""
        work = self._work({**asdict(issued), "study_dir": str(self._study), "attempt": attempt}, **self._shared)
        if isinstance(work, TrialRow):
            self._write(work, attempt)
            yield PhaseResult("trial", row=work)
            return
        try:
            for phase in work:
                if phase.row is not None:
                    self._write(phase.row, attempt)
                yield phase
        finally:
            if isinstance(work, Generator):
                work.close()
        raise MedcoreError("the work ended without a row")

    def _write(self, row: TrialRow, attempt: Attempt) -> None:
        """Write the row unless the work has done so."""
        if not self._has_row():
            attempt.check()
            write_row(self._study, row)

    def _has_row(self) -> bool:
        return read_row(self._study, self._trial_id) is not None

    def _fail(self, error: Exception, attempt: Attempt) -> StepResult:
        """Write the failed row, free memory, and return what to report."""
        trouble = self._write_failure(error, attempt)
        lost = _device_lost(error)
        self.close()
        _free_memory(error)
        if lost:
            raise DeviceLost(f"trial {self._trial_id} lost the device; its row is on disk, another process continues")
        if trouble is not None:
            return {"done": True, "trouble": trouble}
        return {"done": True, "row_written": self._has_row()}

    def _write_failure(self, error: Exception, attempt: Attempt) -> str | None:
        """Write the failed row; return why files cannot be written.

        Write none if the trial has ended or runs elsewhere.
        """
        if self._has_row():  # the trial had ended, and its row is the result
            logger.warning("trial %s has ended, but its worker could not tidy up: %s", self._trial_id, error)
            return None
        if is_storage_trouble(error):
            return str(error)
        report = "".join(traceback.format_exception(error))
        try:
            attempt.check()
            logger.warning("trial %s failed: %s", self._trial_id, error)
            write_by_rename(trial_folder(self._study, self._trial_id) / "error.txt", report.encode())
            assert self._issued is not None  # not read again: network storage may hide the file for a moment
            row = TrialRow.failed(asdict(self._issued), f"{type(error).__name__}: {error}", self._started)
            write_row(self._study, row)
        except Superseded as superseded:
            logger.warning("%s", superseded)
        except StorageError as problem:
            return str(problem)
        return None


def _device_lost(error: BaseException) -> bool:
    """Return whether every later CUDA call in this process would fail too.

    Running out of memory is not of that kind.
    """
    lost: type[BaseException] | tuple[()] = getattr(sys.modules.get("torch"), "AcceleratorError", ())
    return any(
        (isinstance(link, lost) or (isinstance(link, RuntimeError) and "CUDA error" in str(link)))
        and "out of memory" not in str(link)
        for link in chain(error)
    )


def _free_memory(error: BaseException) -> None:
    """Release what the failed trial held. Never raise.

    The next trial in this process needs the memory.
    """
    try:
        for link in chain(error):
            traceback.clear_frames(link.__traceback__)
        release_memory()
    except Exception as problem:  # noqa: BLE001 - a destructor or a lost device; the trial's row is on disk
        logger.warning("memory of a failed trial could not be released: %s", problem)


def release_memory() -> None:
    """Collect garbage, and return the GPU memory that torch keeps for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
