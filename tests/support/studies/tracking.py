"""MLflow trackers as a search makes them, and the runs that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from search.tracking.note import StudyNote
from search.tracking.server.tracker import MlflowTracker
from search.tracking.tracker import Destination
from tests.support.studies.tracked_study import CONFIG


def mlflow_tracker(folder: Path, uri: str | None = None, experiment: str = "medcore", **more: float) -> MlflowTracker:
    """Create a tracker that is not started. `more`: its settings of time."""
    return MlflowTracker(Destination(folder, uri, experiment, "s"), **more)


def started(folder: Path, uri: str | None = None, experiment: str = "medcore", **more: float) -> MlflowTracker:
    """Create a tracker as a search does."""
    tracker = mlflow_tracker(folder, uri, experiment, **more)
    tracker.start(CONFIG, {"git": "abc", "machine": "laptop"})
    return tracker


def noted(experiment: str, **more: Any) -> StudyNote:
    """What a search writes down of a study that goes to this experiment."""
    return StudyNote(experiment=experiment, run_name="s", params={"search.trials": "6"}, **more)


def children(uri: str) -> dict[str, Any]:
    """Return trial id -> run. Assert that no trial has two runs."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`medcore.trial_id` != ''", max_results=1000)
    ids = [run.data.tags["medcore.trial_id"] for run in runs]
    assert len(ids) == len(set(ids))
    return dict(zip(ids, runs, strict=True))


def parents(uri: str) -> list[Any]:
    """Return the parent runs."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`medcore.study` != ''"))
