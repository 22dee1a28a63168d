"""One trial in one process, without Ray: which row stays, in which order things are done, when the process must go."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from medcore.errors import StorageError
from results.store.trials import read_row, write_row
from search.trials import worker
from search.trials.attempt import begin, last_attempt
from search.trials.ledger import Issued, write_issued
from search.trials.worker import DeviceLost, run_one

NODE = "a node"


def row_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {"trial_id": trial["trial_id"], "number": trial["number"], "status": "done", "cost": 1.0}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_issued(tmp_path, Issued("t0000", 0, 1, "sampled", {}))
    return tmp_path


def status(study: Path) -> str:
    row = read_row(study, "t0000")
    assert row is not None
    return str(row["status"])


def test_a_done_trial_stays_done(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        write_row(study, row_of(trial))
        raise OSError("the phase's checkpoint could not be removed")

    run_one(work, study, "t0000", {}, NODE)
    assert status(study) == "done" and not (study / "trials" / "t0000" / "error.txt").exists()


def test_the_row_is_written_before_memory_is_freed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And freeing it, which may run destructors and CUDA calls, cannot undo or stop anything."""

    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    def collect() -> None:
        assert status(study) == "failed"
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(worker.gc, "collect", collect)
    run_one(work, study, "t0000", {}, NODE)
    assert status(study) == "failed"


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_was_given_up_writes_nothing_more(study: Path, fails: bool) -> None:
    """Its node was cut off and came back, and the trial was begun on another one meanwhile."""

    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        begin(study, "t0000", "another node")
        if fails:
            raise ValueError("bad luck")
        return row_of(trial)

    assert run_one(work, study, "t0000", {}, NODE) is None
    assert names(study) == ["attempt.json", "params.json"]
    attempt = last_attempt(study, "t0000")
    assert attempt is not None and attempt.node == "another node"


LOST = [
    RuntimeError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("unspecified launch failure"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lost_device_ends_the_process_after_the_row(study: Path, error: Exception, wrapped: bool) -> None:
    starts = []

    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        starts.append(1)
        if wrapped:
            raise ValueError("evaluation failed") from error
        raise error

    with pytest.raises(DeviceLost):
        run_one(work, study, "t0000", {}, NODE)
    assert status(study) == "failed"
    run_one(work, study, "t0000", {}, "another node")  # Tune's second try, in another process
    attempt = last_attempt(study, "t0000")
    assert len(starts) == 1 and attempt is not None and attempt.node == NODE


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate", "CUDA error: out of memory", "bad shape"])
def test_other_errors_leave_the_process_to_the_next_trial(study: Path, text: str) -> None:
    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        raise RuntimeError(text)

    run_one(work, study, "t0000", {}, NODE)
    assert status(study) == "failed"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses longer files to this process, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(study: Path) -> list[str]:
    return sorted(path.name for path in (study / "trials" / "t0000").iterdir())


def test_a_row_that_cannot_be_written_is_no_failed_trial(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        return row_of(trial)

    with files_of_at_most(60):  # enough to note the beginning
        trouble = run_one(work, study, "t0000", {}, NODE)
    assert trouble is not None and trouble.endswith(
        "row.json: cannot be written (File too large); free some space there"
    )
    assert names(study) == ["attempt.json", "params.json"]
    assert run_one(work, study, "t0000", {}, NODE) is None
    assert status(study) == "done"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_storage_trouble_anywhere_in_the_work_is_not_the_trials(study: Path, number: int) -> None:
    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        try:
            raise OSError(number, "the system says so")
        except OSError as error:
            raise RuntimeError("torch says something else") from error

    assert run_one(work, study, "t0000", {}, NODE) is not None
    assert names(study) == ["attempt.json", "params.json"]


def test_a_failure_that_cannot_be_written_down_is_reported(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> dict[str, Any]:
        raise ValueError("bad luck")

    with files_of_at_most(60):
        assert "error.txt: cannot be written" in str(run_one(work, study, "t0000", {}, NODE))
    assert names(study) == ["attempt.json", "params.json"]
    with pytest.raises(StorageError), files_of_at_most(0):
        write_issued(study, Issued("t0001", 1, 1, "sampled", {}))
    assert not (study / "trials" / "t0001" / "params.json").exists()
