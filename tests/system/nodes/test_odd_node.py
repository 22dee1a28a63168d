"""A node whose clock is three hours late and whose storage is slow: only times tell that it was there."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks.campaign.check import comparable, differences
from search.base.config import load_config
from search.commands import search as experiment
from search.study.inputs import Shared
from search.trials import trial
from search.trials.attempt import last_attempt
from search.trials.phase_result import PhaseResult
from tests.support.machines.ray_nodes import ROOT
from tests.support.studies.rows import all_columns
from tests.support.studies.study_files import write_tiny_study

LATE = timedelta(hours=-3)

#: Python reads it at the start of every process of the node.
ODD = """
import sys, time

SLOW = {{"open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "os.remove", "os.rmdir", "fcntl.flock"}}
right = time.time


def wait(event, arguments):
    if event in SLOW and str(arguments[0]).startswith({folder!r}):
        time.sleep(0.1)


time.time = lambda: right() + {late}
sys.addaudithook(wait)
"""


class LateDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + LATE


def work(issued: Mapping[str, Any], shared: Shared, head: str) -> Iterator[PhaseResult]:
    """A real trial, when one has begun on the other node too.

    `datetime` has a clock of its own, which C code uses too: it is changed only where trials ask it.
    """
    study, end = Path(issued["study_dir"]), time.monotonic() + 120
    odd = ray.get_runtime_context().get_node_id() != head
    if odd:
        trial.datetime = LateDatetime  # type: ignore[misc]
    (study / f"begun-{odd}").touch()
    while not (study / f"begun-{not odd}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    yield from trial.trial_phases(issued, shared)


@pytest.mark.usefixtures("no_pictures")
def test_only_times_tell(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient  # workers import this file too, and need no mlflow

    # nothing may depend on what ends first
    search = {"trials": 4, "sampler": "random", "scheduler": "none", "finalists": 0}
    config = load_config(write_tiny_study(tmp_path, search=search, output=str(tmp_path / "odd")))
    plain = config.model_copy(update={"output": tmp_path / "plain"})
    experiment.search(plain, ray_address=cluster.address)
    (tmp_path / "sitecustomize.py").write_text(ODD.format(folder=str(config.output), late=LATE.total_seconds()))
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    begin, head = datetime.now(UTC), ray.get_runtime_context().get_node_id()
    monkeypatch.setattr(experiment, "trial_phases", functools.partial(work, head=head))
    assert experiment.search(config, ray_address=cluster.address).message == "4 trials done, 0 failed"
    end = datetime.now(UTC)
    early, late = [], []
    for row in all_columns(config.folder):
        attempt = last_attempt(config.folder, row["trial_id"])
        assert attempt is not None
        (early if attempt.node == head else late).append(attempt)
        off = timedelta(0) if attempt.node == head else LATE
        assert (
            begin + off < datetime.fromisoformat(row["started"]) < datetime.fromisoformat(row["finished"]) < end + off
        )
    assert early and late
    client = MlflowClient(f"sqlite:///{config.folder}/mlflow.db")
    (experiment_id,) = (item.experiment_id for item in client.search_experiments() if item.name != "Default")
    runs = client.search_runs([experiment_id], "tags.mlflow.parentRunId != ''")
    assert len(runs) == 4 and all(run.info.status == "FINISHED" for run in runs)
    assert all(0 < run.info.end_time - run.info.start_time < 1000 * (end - begin).total_seconds() for run in runs)
    assert differences(comparable(plain.folder), comparable(config.folder)) == []
