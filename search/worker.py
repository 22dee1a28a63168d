"""What Ray Tune runs in a worker process: one trial after another, each ending in a row on disk."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from results.files import write_by_rename
from results.trials import trial_folder, write_row
from search.ledger import failed_row, read_issued, read_row

logger = logging.getLogger(__name__)

#: `work(trial, **shared) -> row`. `trial`: trial_id, number, seed, origin, params, sampler_state, study_dir.
Work = Callable[..., Mapping[str, Any]]


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

    An exception's traceback goes to `error.txt` in the trial's folder. Raises only if no row can be written.
    """
    if read_row(study, trial_id) is not None:  # a worker that died between its row and its report
        return
    issued, started = read_issued(study, trial_id), datetime.now(UTC)
    try:
        row = work({**asdict(issued), "study_dir": str(study)}, **shared)
        if read_row(study, trial_id) is None:
            write_row(study, row)
    except Exception as error:  # noqa: BLE001 - a study outlives any trial; the reason is in the row
        report = "".join(traceback.format_exception(error))
        logger.warning("trial %s failed: %s", trial_id, error)
        reason = f"{type(error).__name__}: {error}"
        _free_memory(error)
        write_by_rename(trial_folder(study, trial_id) / "error.txt", report.encode())
        write_row(study, failed_row(issued, reason, started))


def _free_memory(error: BaseException) -> None:
    """Give back what the failed trial held, or the next one in this process starts with less."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
