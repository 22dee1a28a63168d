"""What Ray Tune runs in a worker process: one trial after another, each ending in a row on disk."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from results.files import write_by_rename
from results.trials import read_row, trial_folder, write_row
from search.ledger import failed_row, read_issued

logger = logging.getLogger(__name__)

#: `work(trial, **shared) -> row`. `trial`: trial_id, number, seed, origin, params, sampler_state, study_dir.
Work = Callable[..., Mapping[str, Any]]


class DeviceLost(RuntimeError):
    """Ends the worker process: Tune tries the trial again in a new one, which finds the row and reports it."""


class TrialWorker(tune.Trainable):
    """An actor that Tune reuses between trials, so processes and shared inputs are paid for once.

    Tune's own result carries nothing but `done`: the row on disk is the result.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters adds arguments
        self, config: dict[str, Any], work: Work, study_dir: str, shared: dict[str, Any]
    ) -> None:
        self._work, self._study, self._shared = work, Path(study_dir), shared

    def step(self) -> dict[str, Any]:
        run_one(self._work, self._study, self.config["trial_id"], self._shared)
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def run_one(work: Work, study: Path, trial_id: str, shared: Mapping[str, Any]) -> None:
    """Do a trial's work unless its row exists; whatever goes wrong ends as a failed row, not as an exception.

    An exception's traceback goes to `error.txt` in the trial's folder. Raises only if no row can be written, and
    `DeviceLost`, after the row, if this process can do no further trial.
    """
    if read_row(study, trial_id) is not None:  # a worker that died between its row and its report
        return
    issued, started, lost = read_issued(study, trial_id), datetime.now(UTC), False
    try:
        row = work({**asdict(issued), "study_dir": str(study)}, **shared)
        if read_row(study, trial_id) is None:
            write_row(study, row)
    except Exception as error:  # noqa: BLE001 - a study outlives any trial; the reason is in the row
        if read_row(study, trial_id) is not None:  # it had ended, and its row is what the trial came to
            logger.warning("trial %s has ended, but its worker could not tidy up: %s", trial_id, error)
        else:
            logger.warning("trial %s failed: %s", trial_id, error)
            report = "".join(traceback.format_exception(error))
            write_by_rename(trial_folder(study, trial_id) / "error.txt", report.encode())
            write_row(study, failed_row(issued, f"{type(error).__name__}: {error}", started))
        lost = _device_lost(error)
        _free_memory(error)
    if lost:
        raise DeviceLost(f"trial {trial_id} lost the device; its row is written, and another process goes on")


def _device_lost(error: BaseException) -> bool:
    """Whether every later CUDA call in this process would fail too; running out of memory is not of that kind."""
    lost: type[BaseException] | tuple[()] = getattr(sys.modules.get("torch"), "AcceleratorError", ())
    return any(
        (isinstance(link, lost) or (isinstance(link, RuntimeError) and "CUDA error" in str(link)))
        and "out of memory" not in str(link)
        for link in _chain(error)
    )


def _free_memory(error: BaseException) -> None:
    """Give back what the failed trial held, or the next one in this process starts with less. Never raises."""
    try:
        for link in _chain(error):
            traceback.clear_frames(link.__traceback__)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    except Exception as problem:  # noqa: BLE001 - a destructor or a lost device; the trial's row is written by now
        logger.warning("memory of a failed trial could not be given back: %s", problem)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
