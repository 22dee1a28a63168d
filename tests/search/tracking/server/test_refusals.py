"""A server that stores no files, takes no model, or refuses descriptions: trials are sent nevertheless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from medcore.errors import TrackingError
from search.commands.sync import sync
from search.tracking.pages.text import END
from search.tracking.server import client as mlflow_client
from tests.support.studies.tracked_study import CONFIG, add_trial, make_study
from tests.support.studies.tracking import children, mlflow_tracker, parents, started

NOTE = "mlflow.note.content"
POINTS = [(50.0, 0.8), (90.0, 0.7)]


def refuse(*_: Any, **__: Any) -> None:
    raise TrackingError("no")


def test_a_study_without_files_is_described_as_it_ended(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_client.Server, "upload", refuse)
    message = started(make_study(tmp_path / "s", POINTS), store).finish()
    assert message is not None and message.startswith("the study's files could not be sent")
    (parent,) = parents(store)
    assert parent.info.status == "FINISHED" and "complete; 2 of 4 trials ended" in parent.data.tags[NOTE]
    assert children(store)["t0000"].data.tags["medcore.knee"] == "true"


def test_refused_descriptions_stop_no_trial(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_client.Server, "set_experiment_tag", refuse)
    folder = make_study(tmp_path / "s", POINTS)
    tracker = started(folder, store, artifact_seconds=0.0)
    assert tracker.sync()
    add_trial(folder, 2, 40, 0.9)
    assert tracker.finish() is None
    assert caplog.text.count("refuses descriptions (no): trials are sent without them") == 1
    assert children(store)["t0002"].data.tags["medcore.knee"] == "true"
    assert "complete; 3 of 4 trials ended" in parents(store)[0].data.tags[NOTE]


def test_a_refused_model_holds_nothing_else_up(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_study(tmp_path / "s", POINTS)
    trial = folder / "trials" / "t0000"
    (trial / "model.safetensors").write_bytes(b"weights")
    row = json.loads((trial / "row.json").read_text()) | {"checkpoint": "trials/t0000/model.safetensors"}
    (trial / "row.json").write_text(json.dumps(row))
    own, asked = mlflow_client.Server.upload, list[str]()

    def upload(self: Any, run_id: str, path: Path, *, large: bool = False) -> None:
        if large:
            asked.append(path.name)
            refuse()
        own(self, run_id, path)

    monkeypatch.setattr(mlflow_client.Server, "upload", upload)
    assert started(folder, store).finish() is None and asked == []  # no configuration asks for models
    tracker = mlflow_tracker(folder, store)
    tracker.start(CONFIG | {"tracking": {"models": "knee"}})
    assert tracker.finish() is None and asked == ["model.safetensors"]
    assert "did not store the model of trial t0000 (no); it is in the study's folder" in caplog.text
    (parent,) = parents(store)
    assert "trials.parquet" in {item.path for item in MlflowClient(store).list_artifacts(parent.info.run_id)}
    assert f"medcore export {folder} --select knee" in parent.data.tags[NOTE]
    assert sync(folder, store) == 2 and len(asked) == 2


def test_own_words_without_room_for_a_description_stay(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_study(tmp_path / "s", POINTS)
    tracker = started(folder, store)
    assert tracker.sync()
    (parent,) = parents(store)
    own = f"# of an earlier version\n\n{END}\n\n{7800 * 'w'}"
    MlflowClient(store).set_tag(parent.info.run_id, NOTE, own)
    add_trial(folder, 2, 40, 0.9)
    assert tracker.finish() is None
    assert parents(store)[0].data.tags[NOTE] == own
    assert caplog.text.count(f"description of run {parent.info.run_id} is not brought up to date") == 1
