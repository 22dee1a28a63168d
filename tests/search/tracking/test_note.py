"""The tracker that is recorded in a study's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from search.commands.sync import sync
from search.tracking.mlflow_tracker import MlflowTracker
from search.tracking.trackers import saved_tracker
from tests.support.studies.tracked_study import make_study
from tests.support.studies.tracking import mlflow_tracker, started


def test_start_keeps_the_identity(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [])
    started(folder)
    first = json.loads((folder / "tracking.json").read_text())
    started(folder, "http://127.0.0.1:1")
    second = json.loads((folder / "tracking.json").read_text())
    assert first["study_id"] == second["study_id"] and second["uri"] == "http://127.0.0.1:1"
    assert mlflow_tracker(folder).uri == "http://127.0.0.1:1"
    assert mlflow_tracker(folder, "http://127.0.0.1:2").uri == "http://127.0.0.1:2"
    for broken in ("{", "[]", json.dumps(second | {"tags": 5})):
        (folder / "tracking.json").write_text(broken)
        with pytest.raises(MedcoreError, match=r"tracking\.json: corrupt"):
            started(folder)


def test_a_login_is_kept_nowhere(
    tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A search that continues without the setting warns, unless the environment provides it."""
    folder, uri = make_study(tmp_path / "s", [(50, 0.8)]), dead
    tracker = started(folder, uri.replace("//", "//me:secret@"))
    assert "secret" in tracker.uri and not tracker.sync()
    assert "cannot be reached" in caplog.text and "secret" not in caplog.text
    assert "secret" not in (folder / "tracking.json").read_text()
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for _ in range(2):
        with pytest.raises(MedcoreError, match="is not kept; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASS"):
            mlflow_tracker(folder)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            assert started(folder).uri == uri
    started(folder, "postgresql://me:secret@h/mlflow")
    with pytest.raises(MedcoreError, match=r"postgresql://h/mlflow is not kept; give --tracking-uri again"):
        sync(folder)
    started(folder, uri)
    assert mlflow_tracker(folder).uri == uri


def test_a_note_from_before_there_was_a_choice_is_of_mlflow(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [])
    started(folder, "http://127.0.0.1:1")
    note = json.loads((folder / "tracking.json").read_text())
    del note["kind"]
    (folder / "tracking.json").write_text(json.dumps(note))
    tracker = saved_tracker(folder)
    assert isinstance(tracker, MlflowTracker) and tracker.uri == "http://127.0.0.1:1"
    assert tracker.study_id == note["study_id"]
