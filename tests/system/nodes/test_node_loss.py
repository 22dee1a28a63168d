"""A search on a real cluster whose nodes come and go: a second raylet joins, works, and is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from results.store.trial_row import TrialRow
from results.store.trials import all_rows
from search.driver.job import Execution
from search.trials.attempt import last_attempt
from tests.support.studies.searches import row_of, searched


def work(trial: Mapping[str, Any], head: str) -> TrialRow:
    """On the other node: never end. On the head: wait until that is gone; a trial that was there dies once more."""
    study, node = Path(trial["study_dir"]), ray.get_runtime_context().get_node_id()
    with (study / "starts.log").open("a") as log:
        log.write(f"{trial['trial_id']} {node}\n")
    if (study / "starts.log").read_text().count(trial["trial_id"]) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while node != head or not (study / "gone").exists():
        time.sleep(0.05)
    return row_of(trial)


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
        while sum(node["Alive"] for node in ray.nodes()) > 1:
            time.sleep(0.05)
        (tmp_path / "gone").touch()

    def on_start(trial_id: str) -> None:
        if not joined:
            joined.append(cluster.add_node(num_cpus=1))
            threading.Thread(target=leave, daemon=True).start()

    execution = Execution(retries=1, ray_address=cluster.address)
    outcome = searched(tmp_path, 4, work, execution, shared={"head": head}, on_start=on_start)
    assert outcome.message == "4 trials done, 0 failed"
    assert [row.trial_id for row in all_rows(tmp_path)] == [f"t{number:04d}" for number in range(4)]
    begun = starts()
    elsewhere = [trial_id for trial_id, node in begun if node != head]
    assert len(elsewhere) == 1 and [trial_id for trial_id, _ in begun].count(elsewhere[0]) == 3
    attempt = last_attempt(tmp_path, elsewhere[0])
    assert attempt is not None and attempt.node == head
