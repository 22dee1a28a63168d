"""Real searches with Ray Tune on a local Ray: failures, dead workers, a full disk, a node that is not ready."""

from __future__ import annotations

import os
import platform
import re
import resource
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.errors import MedcoreError
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, finished_ids, write_row
from search.driver.job import Execution
from search.nodes.session import Resources
from tests.support.studies.searches import ONE_AT_A_TIME, note_start, row_of, searched, starts_of, starts_with_process

pytestmark = pytest.mark.usefixtures("local_ray")


def well_or_ill(trial: Mapping[str, Any], table: Any) -> TrialRow:
    """What may happen to a trial, by its number; `table` is shared, mapped and read-only."""
    study, number = Path(trial["study_dir"]), trial["number"]
    note_start(trial)
    if number == 1:
        raise ValueError("bad luck\nsecond line")
    if number == 2:
        raise MemoryError("cannot allocate 7 GiB")
    if number == 3 or (number == 4 and starts_of(study)["t0004"] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    assert not table.flags.writeable and table.sum() == 1e6
    row = row_of(trial, quality=float("nan") if number == 5 else 1.0, threads=os.environ.get("OMP_NUM_THREADS"))
    if number == 7:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if number != 6:  # a row that is only returned is written all the same
        write_row(study, row)
    if number == 8:
        raise OSError("the phase's checkpoint could not be removed")
    return row


def dies_between_trials(trial: Mapping[str, Any]) -> TrialRow:
    """Ends well, and takes its process with it a moment later: before, while or after Tune reuses it."""
    row = row_of(trial)
    write_row(Path(trial["study_dir"]), row)
    delay = 0.006 * trial["number"]
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return row


def test_a_worker_that_dies_between_two_trials_fails_neither(tmp_path: Path) -> None:
    outcome = searched(tmp_path / "s", 4, dies_between_trials, ONE_AT_A_TIME)
    assert outcome.complete
    assert [row.reason for row in all_rows(tmp_path / "s")] == [None] * 4


def test_whatever_happens_every_trial_gets_a_row(tmp_path: Path) -> None:
    told: list[TrialRow] = []
    begun: list[str] = []
    warm = [{"origin": "dense", "params": {"x": 1.0}}]
    given: dict[str, Any] = {"warm_starts": warm, "shared": {"table": np.ones(1_000_000)}}
    hooks = {"on_row": told.append, "on_start": begun.append}
    outcome = searched(tmp_path, 12, well_or_ill, Execution(retries=1), **given, **hooks)
    rows = {row.number: row for row in all_rows(tmp_path)}
    assert list(rows) == list(range(12)) and rows[0].origin == "dense" and rows[0].metrics["cost"] == 1.0
    assert {number for number, row in rows.items() if row.status == "failed"} == {1, 2, 3, 7}
    assert rows[1].reason == "ValueError: bad luck" and rows[2].reason == "MemoryError: cannot allocate 7 GiB"
    assert "second line" in (tmp_path / "trials" / "t0001" / "error.txt").read_text()
    assert str(rows[3].reason).startswith("worker process died 2 times") and "x" in rows[3].params
    assert rows[5].metrics["quality"] is None
    assert rows[7].reason == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert (outcome.done, outcome.failed, outcome.complete, outcome.interrupted) == (8, 4, True, False)
    assert outcome.message == "8 trials done, 4 failed"
    assert sorted(row.number for row in told) == list(range(12)) and set(begun) == finished_ids(tmp_path)
    assert starts_of(tmp_path) == {f"t{number:04d}": 2 if number in (3, 4) else 1 for number in range(12)}
    starts = starts_with_process(tmp_path)
    assert len({pid for _, pid in starts}) <= 7  # two workers, and a new one for each that died: reused
    broken = next(pid for trial_id, pid in starts if trial_id == "t0007")
    assert [trial_id for trial_id, pid in starts if pid == broken][-1] == "t0007"  # its CUDA context is of no more use

    more = searched(tmp_path, 13, well_or_ill, ONE_AT_A_TIME, **given, resume=True)
    assert more.complete and len(all_rows(tmp_path)) == 13
    assert len(starts_with_process(tmp_path)) == len(starts) + 1


def test_refusals(tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (1, row_of)
    searched(tmp_path / "a", *arguments)
    with pytest.raises(MedcoreError, match="has trials already; go on with it by --resume"):
        searched(tmp_path / "a", *arguments)
    with pytest.raises(MedcoreError, match="no node of the Ray cluster has 64 cpu"):
        searched(tmp_path / "b", *arguments, Execution(Resources(cpu=64)))
    with pytest.raises(MedcoreError, match=r"has 1 cpu, 1e\+15 memory for a trial; lower .*memory_per_trial"):
        searched(tmp_path / "b", *arguments, Execution(Resources(memory=10**15)), resume=True)
    resources = Resources(gpu=0.25, memory=10**8)  # no GPU here: not asked for
    assert searched(tmp_path / "c", *arguments, Execution(resources)).complete
    assert searched(tmp_path / "a", *arguments, resume=True).message == "1 trials done, 0 failed"


def fills_up(trial: Mapping[str, Any]) -> TrialRow:
    """Let the third trial's writes fail, as on a full disk, until the test frees space."""
    study = note_start(trial)
    if trial["number"] == 2 and not (study / "freed").exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return row_of(trial)


def test_a_full_disk_ends_the_search_in_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (tmp_path, 6, fills_up, ONE_AT_A_TIME)
    outcome = searched(*arguments, resume_command="medcore search c.yaml --resume")
    row = tmp_path / "trials" / "t0002" / "row.json"
    assert outcome.message == (
        f"ended early ({row}: cannot be written (File too large); free some space there): "
        "2 trials done, 0 failed, 4 of 6 missing; go on with: medcore search c.yaml --resume"
    )
    assert not outcome.complete and not outcome.interrupted
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "freed").touch()
    assert searched(*arguments, resume=True).message == "6 trials done, 0 failed"
    assert starts_of(tmp_path) == {f"t{number:04d}": 2 if number == 2 else 1 for number in range(6)}


def noted(trial: Mapping[str, Any]) -> TrialRow:
    note_start(trial)
    return row_of(trial)


class Unreadable:
    """Like an array of another NumPy: no other process can read it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _cannot_be_read, ()


def _cannot_be_read() -> None:
    raise ImportError("No module named 'numpy._core'")


def test_a_node_that_is_not_ready_costs_no_trial_and_each_process_is_asked_once(tmp_path: Path) -> None:
    """Ask whether the node is ready before unpickling anything, and start no second trial."""
    arguments: tuple[Any, ...] = (tmp_path, 4, noted)

    def ready() -> str | None:
        with (tmp_path / "asked.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        return None if (tmp_path / "mended").exists() else "torch 1.0 (here 2.0); install this one there"

    execution = Execution(concurrency=1, ready=ready)
    outcome = searched(*arguments, execution, shared={"table": Unreadable()})
    node = re.escape(platform.node())
    assert re.match(
        rf"ended early \(no other node has room for a trial than node {node} \(\S+\): "
        r"torch 1\.0 \(here 2\.0\); install this one there\): "
        "0 trials done, 0 failed, 4 of 4 missing; go on with: ",
        outcome.message,
    )
    assert not all_rows(tmp_path) and not (tmp_path / "starts.log").exists()
    (tmp_path / "mended").touch()
    (tmp_path / "asked.log").unlink()
    assert searched(*arguments, execution, resume=True).message == "4 trials done, 0 failed"
    asked = (tmp_path / "asked.log").read_text().split()
    assert len(asked) == len(set(asked)) < 4
