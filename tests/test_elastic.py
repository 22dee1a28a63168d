"""A search on a real cluster whose nodes come and go: a second raylet joins, works, and is killed."""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from results.trials import all_rows, write_row
from search import experiment, preflight
from search.attempt import last_attempt
from search.config import load_config
from search.ledger import all_issued
from search.objectives import Objective
from search.run import run_search
from search.study import Shared
from search.trial import run_trial
from tests.ray_nodes import ROOT
from tests.study_files import write_tiny_study

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
    """A real trial that begins when a node has said why it is unlike the driver's."""
    asked, end = Path(trial["study_dir"]) / "asked.log", time.monotonic() + 120
    while "numpy" not in asked.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    return run_trial(trial, shared)


def test_a_node_that_joins_with_other_software_costs_no_trial(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has another NumPy: the search ends in a line that says so, and goes on when the node is gone."""
    config = load_config(write_tiny_study(tmp_path, search={"trials": 6}))
    folder, check = config.folder, preflight.for_late_nodes

    def written_down(*arguments: Any) -> Callable[[], str | None]:
        ready = check(*arguments)
        assert ready is not None

        def ask() -> str | None:
            reason = ready()
            with (folder / "asked.log").open("a") as log:
                log.write(f"{reason}\n")
            return reason

        return ask

    monkeypatch.setattr(preflight, "for_late_nodes", written_down)
    monkeypatch.setattr(experiment, "run_trial", patient)
    fake = tmp_path / "site" / "numpy-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    with ThreadPoolExecutor() as pool:  # a node can only be added in the main thread
        running = pool.submit(experiment.search, config, ray_address=cluster.address, command="medcore search c.yaml")
        while not (folder / "asked.log").exists() and not running.done():
            time.sleep(0.05)
        late = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": f"{fake.parent}:{ROOT}"})
        outcome = running.result()
    reason = (
        f"numpy 1.0 (here {np.__version__}); install the versions of constraints.txt there, or submit with --pip; "
        "or take that node away"
    )
    assert re.fullmatch(
        rf"ended early \(node {re.escape(platform.node())} \(\S+\): {re.escape(reason)}\): \d trials done, "
        r"0 failed, \d of 6 missing; go on with: medcore search c\.yaml",
        outcome.message,
    )
    before = {row["trial_id"]: row for row in all_rows(folder)}
    assert len(before) < len(all_issued(folder))  # what that node was given is still to be done
    cluster.remove_node(late)
    while all(node["Alive"] for node in ray.nodes()):
        time.sleep(0.05)
    assert experiment.search(config, resume=True, ray_address=cluster.address).message == "6 trials done, 0 failed"
    assert before.items() <= {row["trial_id"]: row for row in all_rows(folder)}.items()
