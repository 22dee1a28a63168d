"""Real searches with Ray Tune on a local Ray: failures, dead workers, Ctrl-C, SIGKILL and resuming."""

from __future__ import annotations

import io
import logging
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from rich.console import Console

from medcore.errors import MedcoreError
from results.store.trials import all_rows, finished_ids, read_study, write_row
from search.base.objectives import Objective
from search.driver.progress import SearchProgress
from search.driver.run import run_search
from search.nodes.session import Resources

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))

#: A search as a program of its own, to be killed. Every start of a trial is a line in starts.log.
DRIVER = """
import os, sys, time
from pathlib import Path
from results.trials import write_row
from search.objectives import Objective
from search.run import run_search
from search.session import Resources

def work(trial, pause):
    study = Path(trial["study_dir"])
    with (study / "starts.log").open("a") as log:
        log.write(trial["trial_id"] + "\\n")
    time.sleep(pause)
    row = {"trial_id": trial["trial_id"], "number": trial["number"], "status": "done", "seed": trial["seed"]}
    row |= {"cost": trial["params"]["x"], "quality": 1.0}
    write_row(study, row)
    return row

outcome = run_search(
    Path(sys.argv[1]), lambda trial: {"x": trial.suggest_float("x", 0, 1)}, [],
    [Objective("cost", "min"), Objective("quality", "max")], 16, work,
    shared={"pause": 0.4},
)
print(outcome.message)
"""


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """One Ray for the searches inside this process."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


def row_of(trial: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    row = {key: trial[key] for key in ("trial_id", "number", "seed", "origin")}
    return (
        row | {"status": "done", "cost": trial["params"]["x"], "quality": 1.0, "param/x": trial["params"]["x"]} | more
    )


def slow(trial: Mapping[str, Any]) -> dict[str, Any]:
    with (Path(trial["study_dir"]) / "starts.log").open("a") as log:
        log.write(trial["trial_id"] + "\n")
    time.sleep(0.4)
    row = row_of(trial)
    write_row(Path(trial["study_dir"]), row)
    return row


def well_or_ill(trial: Mapping[str, Any], table: Any) -> dict[str, Any]:
    """What may happen to a trial, by its number; `table` is shared, mapped and read-only."""
    study, number = Path(trial["study_dir"]), trial["number"]
    with (study / "starts.log").open("a") as log:
        log.write(f"{number} {os.getpid()}\n")
    starts = (study / "starts.log").read_text().splitlines()
    if number == 1:
        raise ValueError("bad luck\nsecond line")
    if number == 2:
        raise MemoryError("cannot allocate 7 GiB")
    if number == 3 or (number == 4 and sum(line.startswith("4 ") for line in starts) == 1):
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


def dies_between_trials(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Ends well, and takes its process with it a moment later: before, while or after Tune reuses it."""
    row = row_of(trial)
    write_row(Path(trial["study_dir"]), row)
    delay = 0.004 * trial["number"]
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return row


def test_a_worker_that_dies_between_two_trials_fails_neither(tmp_path: Path) -> None:
    outcome = run_search(tmp_path / "s", space, [], OBJECTIVES, 6, dies_between_trials, concurrency=1)
    assert outcome.complete
    assert [row.get("reason") for row in all_rows(tmp_path / "s")] == [None] * 6


def test_whatever_happens_every_trial_gets_a_row(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    begun: list[str] = []
    warm = [{"origin": "dense", "params": {"x": 1.0}}]
    outcome = run_search(
        tmp_path, space, warm, OBJECTIVES, 12, well_or_ill,
        shared={"table": np.ones(1_000_000)}, on_row=told.append, on_start=begun.append, retries=1,
    )  # fmt: skip
    rows = {row["number"]: row for row in all_rows(tmp_path)}
    assert list(rows) == list(range(12)) and rows[0]["origin"] == "dense" and rows[0]["cost"] == 1.0
    assert {number for number, row in rows.items() if row["status"] == "failed"} == {1, 2, 3, 7}
    assert rows[1]["reason"] == "ValueError: bad luck" and rows[2]["reason"] == "MemoryError: cannot allocate 7 GiB"
    assert "second line" in (tmp_path / "trials" / "t0001" / "error.txt").read_text()
    assert rows[3]["reason"].startswith("worker process died 2 times") and "param/x" in rows[3]
    assert rows[5]["quality"] is None
    assert rows[7]["reason"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert (outcome.done, outcome.failed, outcome.complete, outcome.interrupted) == (8, 4, True, False)
    assert outcome.message == "8 trials done, 4 failed"
    assert sorted(row["number"] for row in told) == list(range(12)) and set(begun) == finished_ids(tmp_path)
    starts = [line.split() for line in (tmp_path / "starts.log").read_text().splitlines()]
    assert Counter(number for number, _ in starts) == Counter({str(i): 2 if i in (3, 4) else 1 for i in range(12)})
    assert len({pid for _, pid in starts}) <= 7  # two workers, and a new one for each that died: reused
    broken = next(pid for number, pid in starts if number == "7")
    assert [number for number, pid in starts if pid == broken][-1] == "7"  # its CUDA context is of no more use

    more = run_search(
        tmp_path, space, warm, OBJECTIVES, 13, well_or_ill, shared={"table": np.ones(1_000_000)}, resume=True
    )
    assert more.complete and len(all_rows(tmp_path)) == 13
    assert len((tmp_path / "starts.log").read_text().splitlines()) == len(starts) + 1


def test_refusals(tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (space, [], OBJECTIVES, 1, row_of)
    run_search(tmp_path / "a", *arguments)
    with pytest.raises(MedcoreError, match="has trials already; go on with it by --resume"):
        run_search(tmp_path / "a", *arguments)
    with pytest.raises(MedcoreError, match="no node of the Ray cluster has 64 cpu"):
        run_search(tmp_path / "b", *arguments, resources=Resources(cpu=64))
    with pytest.raises(MedcoreError, match=r"has 1 cpu, 1e\+15 memory for a trial; lower .*memory_per_trial"):
        run_search(tmp_path / "b", *arguments, resources=Resources(memory=10**15), resume=True)
    resources = Resources(gpu=0.25, memory=10**8)  # no GPU here: not asked for
    assert run_search(tmp_path / "c", *arguments, resources=resources).complete
    assert run_search(tmp_path / "a", *arguments, resume=True).message == "1 trials done, 0 failed"


def test_killed_then_stopped_then_resumed(tmp_path: Path) -> None:
    """SIGKILL, resume, Ctrl-C, resume: each trial ends once, and no finished one runs again."""
    script, study = tmp_path / "driver.py", tmp_path / "study"
    script.write_text(DRIVER)
    driver = start(script, study)
    wait_for_rows(study, 2, driver)
    arguments: tuple[Any, ...] = (study, space, [], OBJECTIVES, 16, slow)
    with pytest.raises(MedcoreError, match="another search is writing"):
        run_search(*arguments, resume=True)
    driver.kill()
    driver.wait()
    wait_until(lambda: not trials_start(study))
    killed_at = {row["trial_id"]: row for row in all_rows(study)}

    ended: list[Any] = []

    def press_ctrl_c(row: Any) -> None:
        ended.append(row)
        if len(ended) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    outcome = run_search(*arguments, resume=True, on_row=press_ctrl_c, resume_command="medcore search c.yaml --resume")
    assert outcome.interrupted and not outcome.complete and signal.getsignal(signal.SIGINT) is before
    expected = (
        r"stopped by request: \d+ trials done, 0 failed, \d+ of 16 missing; go on with: medcore search c.yaml --resume"
    )
    assert re.fullmatch(expected, outcome.message)
    stopped_at = {row["trial_id"]: row for row in all_rows(study)}
    assert len(killed_at) + 2 <= len(stopped_at) < 16

    assert run_search(*arguments, resume=True).message == "16 trials done, 0 failed"
    assert list(read_study(study)["trial_id"]) == [f"t{i:04d}" for i in range(16)]
    after = {row["trial_id"]: row for row in all_rows(study)}
    assert {trial_id: after[trial_id] for trial_id in stopped_at} == killed_at | stopped_at
    starts = Counter((study / "starts.log").read_text().split())
    assert all(starts[trial_id] == 1 for trial_id in killed_at)
    assert sum(starts.values()) <= 16 + 4  # two trials were under way at each stop


def test_terminated_ends_cleanly(tmp_path: Path) -> None:
    """What a container, Slurm or a preempted machine sends first; Ray has a handler of its own for it."""
    script, study = tmp_path / "driver.py", tmp_path / "study"
    script.write_text(DRIVER)
    driver = start(script, study)
    wait_for_rows(study, 2, driver)
    driver.terminate()
    out, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0
    assert "stopped by request: " in out and "go on with: medcore search" in out


def fills_up(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The third trial's process can write nothing more, as on a full disk, until somebody frees space."""
    study = Path(trial["study_dir"])
    with (study / "starts.log").open("a") as log:
        log.write(trial["trial_id"] + "\n")
    if trial["number"] == 2 and not (study / "freed").exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return row_of(trial)


def test_a_full_disk_ends_the_search_in_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (tmp_path, space, [], OBJECTIVES, 6, fills_up)
    outcome = run_search(*arguments, concurrency=1, resume_command="medcore search c.yaml --resume")
    row = tmp_path / "trials" / "t0002" / "row.json"
    assert outcome.message == (
        f"ended early ({row}: cannot be written (File too large); free some space there): "
        "2 trials done, 0 failed, 4 of 6 missing; go on with: medcore search c.yaml --resume"
    )
    assert not outcome.complete and not outcome.interrupted
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "freed").touch()
    assert run_search(*arguments, concurrency=1, resume=True).message == "6 trials done, 0 failed"
    starts = Counter((tmp_path / "starts.log").read_text().split())
    assert starts == {f"t{number:04d}": 2 if number == 2 else 1 for number in range(6)}


class Unreadable:
    """Like an array of another NumPy: nobody can read it in another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _cannot_be_read, ()


def _cannot_be_read() -> None:
    raise ImportError("No module named 'numpy._core'")


def test_a_node_that_is_not_ready_costs_no_trial_and_each_process_is_asked_once(tmp_path: Path) -> None:
    """It is asked before it must read anything else, and starts no second trial."""
    arguments: tuple[Any, ...] = (tmp_path, space, [], OBJECTIVES, 4, slow)

    def ready() -> str | None:
        with (tmp_path / "asked.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        return None if (tmp_path / "mended").exists() else "torch 1.0 (here 2.0); install this one there"

    outcome = run_search(*arguments, ready=ready, concurrency=1, shared={"table": Unreadable()})
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
    assert run_search(*arguments, ready=ready, concurrency=1, resume=True).message == "4 trials done, 0 failed"
    asked = (tmp_path / "asked.log").read_text().split()
    assert len(asked) == len(set(asked)) < 4


def noisy(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A row that depends on parameters and seed only. Its worker or driver dies where the study's folder says so."""
    study, number = Path(trial["study_dir"]), trial["number"]
    with (study / "starts.log").open("a") as log:
        log.write(f"{trial['trial_id']}\n")
    for whom, process in (("worker", os.getpid()), ("driver", None)):
        order = study / f"kill-{whom}-{number}"
        if order.exists():
            target = process or int((study / "search.base.lock").read_text().split()[0])
            order.unlink()
            os.kill(target, signal.SIGKILL)
            time.sleep(60)
    x = trial["params"]["x"]
    quality = np.sin(20 * x) + np.random.default_rng(trial["seed"]).normal()
    return row_of(trial, cost=x * x, quality=float(quality), finished=time.time())


#: The disturbed study's driver, to be killed by its own trial.
NOISY_DRIVER = """
import sys
from pathlib import Path
from search.run import run_search
from tests.test_run import OBJECTIVES, noisy, space

study, sampler, trials = sys.argv[1:]
run_search(Path(study), space, [], OBJECTIVES, int(trials), noisy, concurrency=1, sampler=sampler, seed=3)
"""


def test_a_disturbed_study_has_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    """One trial at a time; enough trials for TPE's own model, which starts after 10."""
    trials, sampler = 14, "tpe"
    script, quiet, disturbed = tmp_path / "driver.py", tmp_path / "quiet", tmp_path / "disturbed"
    arguments: tuple[Any, ...] = (space, [], OBJECTIVES, trials, noisy)
    run_search(quiet, *arguments, concurrency=1, sampler=sampler, seed=3)

    script.write_text(NOISY_DRIVER)
    disturbed.mkdir()
    for order in ("kill-worker-5", "kill-worker-11", "kill-driver-12"):
        (disturbed / order).touch()
    driver = start(script, disturbed, sampler, str(trials))
    assert driver.wait(timeout=240) == -signal.SIGKILL
    wait_until(lambda: not trials_start(disturbed))
    assert not list(disturbed.glob("kill-*")) and len(all_rows(disturbed)) == 12
    assert run_search(disturbed, *arguments, concurrency=1, sampler=sampler, seed=3, resume=True).complete

    def rows(study: Path) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "finished"} for row in all_rows(study)]

    assert rows(disturbed) == rows(quiet)
    starts = Counter((disturbed / "starts.log").read_text().split())
    assert starts == {f"t{number:04d}": 2 if number in (5, 11, 12) else 1 for number in range(trials)}


def test_progress_lines() -> None:
    """Plain lines where there is no terminal; the pace counts this start's trials only."""
    now = [100.0]
    out = io.StringIO()
    old = [{"trial_id": "t0000", "status": "done", "cost": 9.0, "quality": 0.2}]
    with SearchProgress(OBJECTIVES, 5, old, Console(file=out, width=200), clock=lambda: now[0]) as progress:
        assert progress.seconds_left() is None
        progress.started("t0001")
        progress.started("t0002")
        now[0] += 60
        progress.ended({"trial_id": "t0001", "status": "failed", "reason": "ValueError: [x]"})
        progress.started("t0003")
        now[0] += 65
        progress.ended({"trial_id": "t0002", "status": "done", "cost": 3.5, "quality": 0.1})
    failed, one, two = out.getvalue().splitlines()
    assert failed == "trial t0001 failed: ValueError: [x]"
    counts, best, left = one.split(" · ")
    assert counts == "1/5 done, 1 failed, 1 running" and best == "best cost 9 (t0000), quality 0.2 (t0000)"
    assert left == "1 min 0 s, about 3 min 0 s left"
    counts, best, left = two.split(" · ")
    assert counts == "2/5 done, 1 failed, 1 running" and best == "best cost 3.5 (t0002), quality 0.2 (t0000)"
    assert left == "2 min 5 s, about 2 min 5 s left"
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with SearchProgress(OBJECTIVES, 5, old, terminal) as progress:
        progress.ended({"trial_id": "t0002", "status": "done", "cost": 3.5, "quality": 0.1})


def start(script: Path, study: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, str(script), str(study), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_rows(study: Path, count: int, driver: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(finished_ids(study)) >= count or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()


def trials_start(study: Path) -> bool:
    """Whether trials still start: a killed driver's Ray needs a moment to notice."""
    log = study / "starts.log"
    size = log.stat().st_size
    time.sleep(1.0)
    return log.stat().st_size != size


def wait_until(condition: Any, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
