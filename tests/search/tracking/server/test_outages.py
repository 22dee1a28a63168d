"""A tracking server that is unreachable from the start, stops, or restarts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medcore.errors import MedcoreError, TrackingError
from search.commands.sync import sync
from search.tracking.server import client as mlflow_client
from search.tracking.tracker import TrackingThread
from tests.support.machines.mlflow_server import Server, eventually
from tests.support.studies.tracked_study import add_trial, make_study
from tests.support.studies.tracking import started


def test_unsent_counts_what_never_arrived(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    tracker = started(folder, store)
    assert tracker.unsent() == 2
    assert tracker.sync() and tracker.unsent() == 0

    def away(*_: object, **__: object) -> None:
        raise TrackingError("away")

    monkeypatch.setattr(mlflow_client.Server, "create_run", away)
    add_trial(folder, 2, 30, 0.6)
    message = tracker.finish()
    assert message is not None and message.startswith("1 trials could not be sent")


def test_no_server_no_error(tmp_path: Path, dead: str, caplog: pytest.LogCaptureFixture) -> None:
    """Warn once per outage, and name the command that sends the rows later."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    tracker = started(folder, dead)
    assert not tracker.sync()  # the first one imports mlflow
    begin = time.monotonic()
    assert not tracker.sync() and not tracker.sync()
    assert time.monotonic() - begin < 10
    assert len([record for record in caplog.records if "cannot be reached" in record.message]) == 1
    message = tracker.finish()
    assert message is not None and message.startswith("1 trials") and f"medcore sync {folder}" in message
    with pytest.raises(MedcoreError, match="not everything could be sent"):
        sync(folder, dead)
    with pytest.raises(MedcoreError, match=r"tracking\.json"):
        sync(tmp_path)


def test_server_killed_and_back(tmp_path: Path, tracking_server: Server) -> None:
    """Rows that end during an outage reach the server after it restarts, each once."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    server, uri = tracking_server, tracking_server.uri
    try:
        server.wait()
        tracker = started(folder, uri, "medcore-server")
        with TrackingThread(tracker, seconds=0.2):
            assert eventually(lambda: tracker.unsent() == 0, 60)
            server.kill()
            add_trial(folder, 1, 40, 0.7)
            add_trial(folder, 2, 0, 0, reason="ValueError: x")
            time.sleep(1.5)
            assert tracker.unsent() >= 2
            server.start()
            add_trial(folder, 3, 30, 0.5)
            assert eventually(lambda: tracker.unsent() == 0, 150)
        assert tracker.finish() is None
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("medcore-server")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        ids = sorted(run.data.tags.get("medcore.trial_id", "parent") for run in runs)
        assert ids == ["parent", "t0000", "t0001", "t0002", "t0003"]
        parent = next(run for run in runs if "medcore.study" in run.data.tags)
        assert "front.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    finally:
        server.kill()
