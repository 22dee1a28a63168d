"""A search on a real cluster that nodes join which are unfit for its trials."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from search.base.config import load_config
from search.commands import search as experiment
from search.driver.excluded_nodes import ExcludedNodes
from search.study.inputs import Shared
from search.trials.attempt import last_attempt
from search.trials.ledger import all_issued
from search.trials.phase_result import PhaseResult
from search.trials.trial import trial_phases
from tests.support.machines.ray_nodes import ROOT
from tests.support.studies.study_files import write_tiny_study


def patient(trial: Mapping[str, Any], shared: Shared) -> Iterator[PhaseResult]:
    """A real trial. The first two end only when one, or both, of the nodes that join are excluded."""
    study, end = Path(trial["study_dir"]), time.monotonic() + 120
    while not (study / f"excluded-{min(trial['number'], 1)}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    yield from trial_phases(trial, shared)


@pytest.mark.usefixtures("no_pictures")
def test_nodes_that_join_and_are_unfit_cost_no_trial_and_get_no_second_one(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has another NumPy, and on the other not even a worker starts, as it misses a library."""
    config = load_config(write_tiny_study(tmp_path, search={"trials": 4, "scheduler": "none"}, recovery={"steps": 0}))
    monkeypatch.setattr(experiment, "trial_phases", patient)
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
            (config.folder / f"excluded-{number}").touch()
        outcome = running.result()
    lines = (rf"; excluded was node {re.escape(platform.node())} \(\S+, \w+\): {why}" for why in reasons)
    assert re.fullmatch(f"4 trials done, 0 failed{''.join(lines)}", outcome.message)
    assert caplog.text.count("the search continues without") == 2
    assert begun(config.folder) == {f"t{number:04d}": head for number in range(4)}


def begun(study: Path) -> dict[str, str]:
    """The node of each trial that was begun."""
    attempts = {trial.trial_id: last_attempt(study, trial.trial_id) for trial in all_issued(study)}
    return {trial_id: attempt.node for trial_id, attempt in attempts.items() if attempt is not None}


def test_too_many_nodes_that_are_unfit_end_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop here, or an autoscaling cluster would start unfit nodes forever. Four have two CPUs, the head has one."""
    names = {f"{number}" * 20: number for number in range(5)}
    nodes = [
        {"NodeID": key, "Alive": True, "NodeManagerHostname": "host", "NodeManagerAddress": f"10.0.0.{number}"}
        | {"Resources": {"CPU": 2.0 if number else 1.0}}
        for key, number in names.items()
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    head, *others, last = names
    excluded = ExcludedNodes(None)
    for node in others:
        excluded.add(node, "other versions")
    assert excluded.problem({"cpu": 2}) is None
    excluded.add(last, "other data")
    assert excluded.problem({"cpu": 1}) is None
    assert re.fullmatch(
        r"no other node has room for a trial than node host \(10\.0\.0\.4\): other data",
        excluded.problem({"cpu": 2}) or "",
    )
    excluded.add(head, "no storage")
    assert re.fullmatch(
        r"5 nodes are unfit for trials, which is too many; the last is node host \(10\.0\.0\.0\): no storage",
        excluded.problem({"cpu": 1}) or "",
    )
