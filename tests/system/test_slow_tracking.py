"""A real MLflow server that answers late, too late, or keeps no files: nothing is doubled, nothing waits for ever."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from medcore.errors import MedcoreError
from search.commands.sync import sync
from search.tracking.server.runs import why_not_writable
from search.tracking.tracker import TrackingThread
from tests.support.machines.mlflow_server import Server, eventually
from tests.support.machines.slow_proxy import slow
from tests.support.studies.tracked_study import add_trial, make_study
from tests.support.studies.tracking import started


@pytest.fixture
def server(tracking_server: Server) -> Server:
    """Return the server once it accepts requests."""
    tracking_server.wait()
    return tracking_server


def runs(server: Server, experiment: str) -> list[Any]:
    """All runs of an experiment, asked without a proxy."""
    client = MlflowClient(server.uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def identities(found: list[Any]) -> list[str]:
    return sorted(run.data.tags.get("medcore.trial_id", "parent") for run in found)


@pytest.mark.parametrize("late", ["request", "answer"])
def test_what_creates_a_run_too_slowly_creates_one(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """Create one run for the parent and one for the trial, even if a request or an answer is slow."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    created = 0

    def delay(path: str) -> tuple[float, float]:
        nonlocal created
        if not path.endswith("runs/create"):
            return 0, 0
        created += 1
        seconds = 1.6 if created in (1, 3) else 0
        return (seconds, 0) if late == "request" else (0, seconds)

    experiment = f"late {late}"
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7), (30, 0.6)])
    with slow(server.port, delay) as proxy:
        tracker = started(folder, proxy.uri, experiment)
        assert eventually(tracker.sync, 60)
        assert eventually(lambda: proxy.open == 0, 20)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        assert tracker.finish() is None
    found = runs(server, experiment)
    assert identities(found) == ["parent", "t0000", "t0001", "t0002"]
    assert {run.info.status for run in found} == {"FINISHED"}


def test_an_ended_search_does_not_wait_for_a_slow_server(tmp_path: Path, server: Server) -> None:
    """Neither in its thread, which is in the middle of sending, nor in its last sync; what is left goes later."""
    folder = make_study(tmp_path / "s", [(50 - number, 0.5) for number in range(20)])
    with slow(server.port, lambda path: (0, 0.3)) as proxy:
        tracker = started(folder, proxy.uri, "slow", end_seconds=1)
        with TrackingThread(tracker, seconds=0.1):
            assert eventually(lambda: any(path.endswith("runs/create") for path in proxy.requests), 60)
        asked = len(proxy.requests)
        message = tracker.finish()
        assert len(proxy.requests) == asked  # its time had gone with the thread's
        told = re.fullmatch(r"(\d+) trials could not be sent to MLflow at \S+ within 1 seconds; .*", str(message))
        assert told and f"medcore sync {folder}" in told[0]
        arrived = [run for run in runs(server, "slow") if run.info.status == "FINISHED"]
        assert int(told[1]) == 20 - len(arrived) > 10
        proxy.delay = lambda path: (0, 0)
        assert sync(folder, proxy.uri) == 20
    found = runs(server, "slow")
    assert identities(found) == sorted(["parent", *(f"t{number:04d}" for number in range(20))])


def test_a_server_that_stores_no_files_gets_all_else(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a wrong key of its bucket. It is reported once, before the first trial; sync sends the files."""
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    uri, experiment = server.uri, "no files"
    assert why_not_writable(uri, experiment) is None
    server.artifacts.rename(tmp_path / "kept")
    server.artifacts.write_text("a file where the folder of artifacts is wanted")
    try:
        reason = why_not_writable(uri, experiment)
        assert reason is not None and re.fullmatch(r"stores no files \(.*500.*\)", reason)
        tracker = started(folder, uri, experiment, artifact_seconds=0)
        assert not tracker.sync() and tracker.unsent() == 0
        add_trial(folder, 2, 30, 0.6)
        message = tracker.finish()
        assert message is not None and message.startswith("the study's files could not be sent to MLflow at http")
        assert caplog.text.count("stores no files") == 1 and "cannot be reached" not in caplog.text
        found = runs(server, experiment)
        assert identities(found) == ["parent", "t0000", "t0001", "t0002"]
        assert {run.info.status for run in found} == {"FINISHED"}
        assert all(run.data.metrics["flops"] for run in found if "medcore.trial_id" in run.data.tags)
        with pytest.raises(MedcoreError, match="not everything could be sent"):
            sync(folder, uri)
    finally:
        server.artifacts.unlink()
        (tmp_path / "kept").rename(server.artifacts)
    assert sync(folder, uri) == 3
    (parent,) = [run for run in runs(server, experiment) if "medcore.study" in run.data.tags]
    names = {item.path for item in MlflowClient(uri).list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "front.html", "trials.parquet"} <= names
    assert why_not_writable(uri, experiment) is None
    assert not list(server.artifacts.rglob("medcore*"))
