"""A search on a real cluster whose nodes come and go: a second raylet joins, works, and is killed."""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from results.store.trials import all_rows, write_row
from search.base.config import load_config
from search.base.objectives import Objective
from search.commands import search as experiment
from search.driver.left_out import LeftOut
from search.driver.run import run_search
from search.study.inputs import Shared
from search.trials.attempt import last_attempt
from search.trials.ledger import all_issued
from search.trials.trial import run_trial
from tests.support.ray_nodes import ROOT
from tests.support.study_files import write_tiny_study

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def work(trial: Mapping[str, Any], head: str) -> dict[str, Any]:
    """On the other node: never end. On the head: wait until that is gone; whoever was there dies once more."""
    study, node = Path(trial["study_dir"]), ray.get_runtime_context().get_node_id()
    with (study / "starts.log").open("a") as log:
        log.write(f"{trial['trial_id']} {node}\n")
    if (study / "starts.log").read_text().count(trial["trial_id"]) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while node != head or not (study / "gone").exists():
        time.sleep(0.05)
    row = {key: trial[key] for key in ("trial_id", "number", "seed", "origin")}
    row |= {"status": "done", "cost": trial["params"]["x"], "quality": 1.0}
    write_row(study, row)
    return row


def test_a_node_that_joins_is_used_and_one_that_dies_costs_no_retry(tmp_path: Path, cluster: Cluster) -> None:
    """One retry is allowed and needed for the worker that dies by itself; the node's death must not have taken it."""
    head = ray.get_runtime_context().get_node_id()
    joined: list[Any] = []

    def starts() -> list[list[str]]:
        log = tmp_path / "starts.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def leave() -> None:
        while all(node == head for _, node in starts()):
            time.sleep(0.05)
        cluster.remove_node(joined[0], allow_graceful=False)
        while all(node["Alive"] for node in ray.nodes()):
            time.sleep(0.05)
        (tmp_path / "gone").touch()

    def on_start(trial_id: str) -> None:
        if not joined:
            joined.append(cluster.add_node(num_cpus=1))
            threading.Thread(target=leave, daemon=True).start()

    outcome = run_search(
        tmp_path, lambda trial: {"x": trial.suggest_float("x", 0, 1)}, [], OBJECTIVES, 4, work,
        shared={"head": head}, ray_address=cluster.address, on_start=on_start, retries=1,
    )  # fmt: skip
    assert outcome.message == "4 trials done, 0 failed"
    assert [row["trial_id"] for row in all_rows(tmp_path)] == [f"t{number:04d}" for number in range(4)]
    begun = starts()
    elsewhere = [trial_id for trial_id, node in begun if node != head]
    assert len(elsewhere) == 1 and [trial_id for trial_id, _ in begun].count(elsewhere[0]) == 3
    attempt = last_attempt(tmp_path, elsewhere[0])
    assert attempt is not None and attempt.node == head


def patient(trial: Mapping[str, Any], shared: Shared) -> dict[str, Any]:
    """A real trial. The first two end only when one, or both, of the nodes that join are left out."""
    study, end = Path(trial["study_dir"]), time.monotonic() + 120
    while not (study / f"left-out-{min(trial['number'], 1)}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return run_trial(trial, shared)


def test_nodes_that_join_and_are_unfit_cost_no_trial_and_get_no_second_one(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has another NumPy, and on the other not even a worker starts, as it misses a library."""
    config = load_config(write_tiny_study(tmp_path, search={"trials": 6}))
    monkeypatch.setattr(experiment, "run_trial", patient)
    fake = tmp_path / "site" / "numpy-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    broken = tmp_path / "broken" / "pandas" / "__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('libm.so: not found')\n")
    reasons = [
        rf"numpy 1\.0 \(here {np.__version__}\); install the versions of constraints\.txt there, or submit with --pip",
        r"cannot run medcore \(ImportError: Can't import ray\.tune .*\); install it there, or submit with --pip",
    ]
    head = ray.get_runtime_context().get_node_id()
    with ThreadPoolExecutor() as pool:  # a node can only be added in the main thread
        running = pool.submit(experiment.search, config, ray_address=cluster.address)
        for number, (folder, reason) in enumerate(zip((fake.parent, tmp_path / "broken"), reasons, strict=True)):
            while len(begun(config.folder)) <= number and not running.done():
                time.sleep(0.05)
            cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": f"{folder}:{ROOT}"})
            while not re.search(reason, caplog.text) and not running.done():
                time.sleep(0.05)
            (config.folder / f"left-out-{number}").touch()
        outcome = running.result()
    lines = (rf"; left out was node {re.escape(platform.node())} \(\S+, \w+\): {why}" for why in reasons)
    assert re.fullmatch(f"6 trials done, 0 failed{''.join(lines)}", outcome.message)
    assert caplog.text.count("the search goes on without") == 2
    assert begun(config.folder) == {f"t{number:04d}": head for number in range(6)}


def begun(study: Path) -> dict[str, str]:
    """The node of each trial that was begun."""
    attempts = {trial.trial_id: last_attempt(study, trial.trial_id) for trial in all_issued(study)}
    return {trial_id: attempt.node for trial_id, attempt in attempts.items() if attempt is not None}


def test_too_many_nodes_that_are_unfit_end_a_search(cluster: Cluster) -> None:
    """Else a cluster that grows by itself would start such nodes for ever."""
    for number in range(4):
        cluster.add_node(num_cpus=2, wait=number == 3)
    *others, last = (node["NodeID"] for node in ray.nodes() if node["Resources"]["CPU"] == 2)
    left_out = LeftOut(None)
    for node in others:
        left_out.add(node, "other versions")
    assert left_out.problem({"cpu": 2}) is None
    left_out.add(last, "other data")
    assert left_out.problem({"cpu": 1}) is None
    assert re.fullmatch(
        r"no other node has room for a trial than node \S+ \(\S+, \w+\): other data", left_out.problem({"cpu": 2}) or ""
    )
    left_out.add(ray.get_runtime_context().get_node_id(), "no storage")
    assert re.fullmatch(
        r"5 nodes are unfit for trials, which is too many; the last is node \S+ \(\S+, \w+\): no storage",
        left_out.problem({"cpu": 1}) or "",
    )
