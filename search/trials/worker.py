"""What Ray Tune runs in a worker process: one trial after another, each ending in a row on disk."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune

from medcore.errors import StorageError
from medcore.files import chain, is_storage_trouble
from results.store.files import write_by_rename
from results.store.trials import read_row, trial_folder, write_row
from search.nodes.probe import Ready
from search.trials.attempt import Attempt, Superseded, begin
from search.trials.ledger import ROW_WRITTEN, Issued, failed_row, is_visible, read_issued, visible_row

logger = logging.getLogger(__name__)

#: `work(trial, **shared) -> row`. `trial`: trial_id, number, seed, origin, params, sampler_state, study_dir, attempt.
Work = Callable[..., Mapping[str, Any]]

#: Keys of a result: why no row could be written; why this node should run no trial, and which one it is.
TROUBLE, UNFIT, NODE = "trouble", "unfit", "node"


class DeviceLost(RuntimeError):
    """Ends the worker process: Tune tries the trial again in a new one, which finds the row and reports it."""


class TrialWorker(tune.Trainable):
    """An actor that Tune reuses between trials, so processes and shared inputs are paid for once.

    The row on disk is the result. Tune's own says only whether there is one, or why none could be written.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters adds arguments
        self, config: dict[str, Any], study_dir: str, ready: Ready | None, inputs: Sequence[ray.ObjectRef]
    ) -> None:
        """`inputs`: reference to work and shared inputs, in a list, which Ray leaves as it is: a node with other
        packages may be unable to read them, and shall say so first.
        """
        self._study = Path(study_dir)
        self._unfit = ready() if ready is not None else None
        if self._unfit is None:
            self._work, self._shared = ray.get(inputs[0])

    def step(self) -> dict[str, Any]:
        trial_id, node = self.config["trial_id"], ray.get_runtime_context().get_node_id()
        if self._unfit is None and not is_visible(self._study, trial_id):  # a node that joined without the storage
            self._unfit = f"{self._study} cannot be seen from there; mount it"
        if self._unfit is not None:
            return {"done": True, UNFIT: self._unfit, NODE: node}
        try:
            trouble = run_one(self._work, self._study, trial_id, self._shared, node)
        except StorageError as error:
            trouble = str(error)
        if trouble is not None:
            return {"done": True, TROUBLE: trouble}
        return {"done": True, ROW_WRITTEN: read_row(self._study, trial_id) is not None}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def run_one(work: Work, study: Path, trial_id: str, shared: Mapping[str, Any], node: str) -> str | None:
    """Do a trial's work on `node` unless its row exists; what goes wrong ends as a failed row, not as an exception.

    An exception's traceback goes to `error.txt` in the trial's folder. A full or read-only disk is not the trial's
    fault: then there is no row, and the trial is run again when the study is resumed. Nor is there one if the trial was
    begun again elsewhere meanwhile.

    Returns: why files cannot be written, if so. Raises `DeviceLost`, after the row, if this process can do no further
    trial, `StorageError` if it cannot even be noted that the trial begins, and `MedcoreError` if the trial's own files
    are corrupt.
    """
    if visible_row(study, trial_id) is not None:  # a worker that died between its row and its report
        return None
    attempt, started = begin(study, trial_id, node), datetime.now(UTC)
    issued = read_issued(study, trial_id)
    error: Exception | None = None
    try:
        row = work({**asdict(issued), "study_dir": str(study), "attempt": attempt}, **shared)
        if read_row(study, trial_id) is None:
            attempt.check()
            write_row(study, row)
    except Exception as caught:  # noqa: BLE001 - a study outlives any trial; the reason is in the row
        error = caught
    if error is None:
        return None
    trouble = _failed(attempt, issued, error, started)
    lost = _device_lost(error)
    _free_memory(error)
    if lost:
        raise DeviceLost(f"trial {trial_id} lost the device; its row is written, and another process goes on")
    return trouble


def _failed(attempt: Attempt, issued: Issued, error: Exception, started: datetime) -> str | None:
    """Write the failed row, unless the trial had ended or goes on elsewhere. Returns why files cannot be written."""
    study = attempt.study
    if read_row(study, issued.trial_id) is not None:  # it had ended, and its row is what the trial came to
        logger.warning("trial %s has ended, but its worker could not tidy up: %s", issued.trial_id, error)
        return None
    if is_storage_trouble(error):
        return str(error)
    report = "".join(traceback.format_exception(error))
    try:
        attempt.check()
        logger.warning("trial %s failed: %s", issued.trial_id, error)
        write_by_rename(trial_folder(study, issued.trial_id) / "error.txt", report.encode())
        write_row(study, failed_row(issued, f"{type(error).__name__}: {error}", started))
    except Superseded as superseded:
        logger.warning("%s", superseded)
    except StorageError as problem:
        return str(problem)
    return None


def _device_lost(error: BaseException) -> bool:
    """Whether every later CUDA call in this process would fail too; running out of memory is not of that kind."""
    lost: type[BaseException] | tuple[()] = getattr(sys.modules.get("torch"), "AcceleratorError", ())
    return any(
        (isinstance(link, lost) or (isinstance(link, RuntimeError) and "CUDA error" in str(link)))
        and "out of memory" not in str(link)
        for link in chain(error)
    )


def _free_memory(error: BaseException) -> None:
    """Give back what the failed trial held, or the next one in this process starts with less. Never raises."""
    try:
        for link in chain(error):
            traceback.clear_frames(link.__traceback__)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    except Exception as problem:  # noqa: BLE001 - a destructor or a lost device; the trial's row is written by now
        logger.warning("memory of a failed trial could not be given back: %s", problem)
