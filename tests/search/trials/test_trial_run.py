"""One trial in one process, without Ray: which row stays, in which order things are done, when the process must go."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from medcore.errors import StorageError
from results.store.trial_row import TrialRow
from results.store.trials import read_row, write_row
from search.trials import trial_run
from search.trials.attempt import begin, last_attempt
from search.trials.ledger import IssuedTrial, write_issued
from search.trials.phase_result import PhaseResult
from search.trials.trial_run import DeviceLost, TrialRun, Work
from tests.support.helpers import files_of_at_most

NODE = "a node"


def row_of(trial: Mapping[str, Any]) -> TrialRow:
    return TrialRow(trial["trial_id"], trial["number"], "done", metrics={"cost": 1.0})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_issued(tmp_path, IssuedTrial("t0000", 0, 1, "sampled", {}))
    return tmp_path


def run_one(work: Work, study: Path, trial_id: str = "t0000", node: str = NODE) -> str | None:
    """Do all phases; returns why files cannot be written."""
    run = TrialRun(work, study, trial_id, {}, node)
    while not (result := run.step())["done"]:
        pass
    return result.get("trouble")


def status(study: Path) -> str:
    row = read_row(study, "t0000")
    assert row is not None
    return row.status


def status_or_none(study: Path) -> str | None:
    row = read_row(study, "t0000")
    return None if row is None else row.status


def test_a_done_trial_stays_done(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> TrialRow:
        write_row(study, row_of(trial))
        raise OSError("the phase's checkpoint could not be removed")

    run_one(work, study)
    assert status(study) == "done" and not (study / "trials" / "t0000" / "error.txt").exists()


def test_the_row_is_written_before_memory_is_freed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And freeing it, which may run destructors and CUDA calls, cannot undo or stop anything."""

    def work(trial: Mapping[str, Any]) -> TrialRow:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    def collect() -> None:
        assert status(study) == "failed"
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(trial_run.gc, "collect", collect)
    run_one(work, study)
    assert status(study) == "failed"


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_was_given_up_writes_nothing_more(study: Path, fails: bool) -> None:
    """Its node was cut off and came back, and the trial was begun on another one meanwhile."""

    def work(trial: Mapping[str, Any]) -> TrialRow:
        begin(study, "t0000", "another node")
        if fails:
            raise ValueError("bad luck")
        return row_of(trial)

    assert run_one(work, study) is None
    assert names(study) == ["attempt.json", "params.json"]
    attempt = last_attempt(study, "t0000")
    assert attempt is not None and attempt.node == "another node"


def test_a_step_is_a_phase_and_the_last_one_has_the_row(study: Path) -> None:
    def work(trial: Mapping[str, Any], name: str) -> Iterator[PhaseResult]:
        yield PhaseResult(name, {"loss": 0.5}, following="mlp")
        assert status_or_none(study) is None
        yield PhaseResult("row", {"cost": 1.0}, row_of(trial))

    run = TrialRun(work, study, "t0000", {"name": "heads"}, NODE)
    assert run.step() == {"done": False, "phase": "heads", "figures": {"loss": 0.5}, "following": "mlp"}
    assert run.step() == {"done": True, "phase": "row", "figures": {"cost": 1.0}, "row_written": True}
    assert status(study) == "done"
    again = TrialRun(work, study, "t0000", {"name": "heads"}, "another node")
    assert again.step() == {"done": True, "row_written": True}  # its row is all that counts


def test_a_phase_that_fails_fails_the_trial(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> Iterator[PhaseResult]:
        yield PhaseResult("heads")
        raise ValueError("bad luck")

    run_one(work, study)
    row = read_row(study, "t0000")
    assert row is not None and (row.status, row.reason) == ("failed", "ValueError: bad luck")
    assert "bad luck" in (study / "trials" / "t0000" / "error.txt").read_text()


def test_the_error_of_a_trial_is_kept_though_its_parameters_are_hidden(study: Path) -> None:
    """Network storage may hide a file for a moment."""

    def work(trial: Mapping[str, Any]) -> TrialRow:
        (study / "trials" / "t0000" / "params.json").unlink()
        raise ValueError("bad luck")

    assert run_one(work, study) is None
    row = read_row(study, "t0000")
    assert row is not None and (row.status, row.reason) == ("failed", "ValueError: bad luck")


def test_work_that_ends_without_a_row_fails(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> Iterator[PhaseResult]:
        yield PhaseResult("heads")

    run_one(work, study)
    row = read_row(study, "t0000")
    assert row is not None and row.status == "failed" and "without a row" in str(row.reason)


def test_a_trial_that_is_given_up_frees_what_it_holds_and_writes_nothing(study: Path) -> None:
    """As when a scheduler stops or pauses it between two phases."""
    ended = []

    def work(trial: Mapping[str, Any]) -> Iterator[PhaseResult]:
        try:
            yield PhaseResult("heads")
            raise AssertionError("the next phase was not asked for")
        finally:
            ended.append(trial["trial_id"])
            raise RuntimeError("a destructor")  # changes nothing

    run = TrialRun(work, study, "t0000", {}, NODE)
    run.step()
    run.close()
    run.close()
    assert ended == ["t0000"] and names(study) == ["attempt.json", "params.json"]


LOST = [
    RuntimeError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("unspecified launch failure"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lost_device_ends_the_process_after_the_row(study: Path, error: Exception, wrapped: bool) -> None:
    starts = []

    def work(trial: Mapping[str, Any]) -> TrialRow:
        starts.append(1)
        if wrapped:
            raise ValueError("evaluation failed") from error
        raise error

    with pytest.raises(DeviceLost):
        run_one(work, study)
    assert status(study) == "failed"
    run_one(work, study, node="another node")  # Tune's second try, in another process
    attempt = last_attempt(study, "t0000")
    assert len(starts) == 1 and attempt is not None and attempt.node == NODE


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate", "CUDA error: out of memory", "bad shape"])
def test_other_errors_leave_the_process_to_the_next_trial(study: Path, text: str) -> None:
    def work(trial: Mapping[str, Any]) -> TrialRow:
        raise RuntimeError(text)

    run_one(work, study)
    assert status(study) == "failed"


def names(study: Path) -> list[str]:
    return sorted(path.name for path in (study / "trials" / "t0000").iterdir())


def test_a_row_that_cannot_be_written_is_no_failed_trial(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> TrialRow:
        return row_of(trial)

    with files_of_at_most(60):  # enough to note the beginning
        trouble = run_one(work, study)
    assert trouble is not None and trouble.endswith(
        "row.json: cannot be written (File too large); free some space there"
    )
    assert names(study) == ["attempt.json", "params.json"]
    assert run_one(work, study) is None
    assert status(study) == "done"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_storage_trouble_anywhere_in_the_work_is_not_the_trials(study: Path, number: int) -> None:
    def work(trial: Mapping[str, Any]) -> TrialRow:
        try:
            raise OSError(number, "the system says so")
        except OSError as error:
            raise RuntimeError("torch says something else") from error

    assert run_one(work, study) is not None
    assert names(study) == ["attempt.json", "params.json"]


def test_a_failure_that_cannot_be_written_down_is_reported(study: Path) -> None:
    def work(trial: Mapping[str, Any]) -> TrialRow:
        raise ValueError("bad luck")

    with files_of_at_most(60):
        assert "error.txt: cannot be written" in str(run_one(work, study))
    assert names(study) == ["attempt.json", "params.json"]
    with pytest.raises(StorageError), files_of_at_most(0):
        write_issued(study, IssuedTrial("t0001", 1, 1, "sampled", {}))
    assert not (study / "trials" / "t0001" / "params.json").exists()
