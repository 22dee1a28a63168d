"""The tracker that is recorded in a study's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcore.errors import MedcoreError, StorageError
from search.base.lock import only_driver
from search.base.sections.tracking import TrackingConfig
from search.commands.sync import sync
from search.tracking.note import own_uri
from search.tracking.server.registry import check_registration
from search.tracking.server.runs import why_not_writable
from search.tracking.server.tracker import MlflowTracker
from search.tracking.trackers import given_tracking, saved_tracker
from tests.support.studies.tracked_study import make_study
from tests.support.studies.tracking import mlflow_tracker, started


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def test_start_keeps_the_identity(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [])
    started(folder)
    first = json.loads((folder / "tracking.json").read_text())
    started(folder, "http://127.0.0.1:1")
    second = json.loads((folder / "tracking.json").read_text())
    assert first["study_id"] == second["study_id"] and second["uri"] == "http://127.0.0.1:1"
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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for _ in range(2):
        with pytest.raises(MedcoreError, match="is not kept; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASS"):
            mlflow_tracker(folder)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            assert started(folder).uri == uri
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//me:secret@"))
        assert mlflow_tracker(folder).uri == uri.replace("//", "//me:secret@")
    started(folder, "postgresql://me:secret@h/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://h/mlflow")
    with pytest.raises(MedcoreError, match=r"postgresql://h/mlflow is not kept; give --tracking-uri again"):
        sync(folder)
    started(folder, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
    assert mlflow_tracker(folder).uri == f"{uri}/"


def test_a_server_that_only_the_study_names_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study may come from someone else, and its server would get the user's login."""
    folder, uri = make_study(tmp_path / "s", []), "http://127.0.0.1:1"
    started(folder, uri)
    uses: list[Callable[[], object]] = [
        lambda: mlflow_tracker(folder),
        lambda: saved_tracker(folder),
        lambda: sync(folder),
        lambda: check_registration(folder, "mlflow", "polyps"),
    ]
    for use in uses:
        with pytest.raises(MedcoreError, match=rf"tracking\.json: names {uri}.*--tracking-uri {uri}"):
            use()
    assert saved_tracker(folder, "http://127.0.0.1:2").address == "http://127.0.0.1:2"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:2")
    with pytest.raises(MedcoreError, match="only a study names"):
        saved_tracker(folder)


def test_a_configuration_in_a_study_s_folder_names_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, uri = make_study(tmp_path / "s", []), "http://127.0.0.1:1"
    section = TrackingConfig(uri=uri)
    with pytest.raises(MedcoreError, match=r"config\.yaml: names http://127\.0\.0\.1:1"):
        given_tracking(folder / "config.yaml", section, None)
    assert given_tracking(folder / "config.yaml", section, "http://127.0.0.1:2") == "http://127.0.0.1:2"
    assert given_tracking(folder / "config.yaml", TrackingConfig(), None) is None
    assert given_tracking(tmp_path / "mine.yaml", section, None) is None  # the user's own file, whose address counts
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    assert given_tracking(folder / "config.yaml", section, None) == "http://me:secret@127.0.0.1:1"


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db-journal", "mlartifacts", "mlartifacts/1/front.csv"])
def test_links_in_a_study_are_not_followed(tmp_path: Path, name: str) -> None:
    folder, away = make_study(tmp_path / "s", []), tmp_path / "away"
    assert mlflow_tracker(folder).uri == own_uri(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(away)
    with pytest.raises(StorageError, match=rf"{name}: is a link"):
        mlflow_tracker(folder)
    with pytest.raises(StorageError, match="is a link"), only_driver(folder):
        pass
    assert mlflow_tracker(folder, "http://127.0.0.1:1").uri == "http://127.0.0.1:1" and not away.exists()


def test_the_address_of_a_study_s_own_file_survives_its_characters(tmp_path: Path) -> None:
    place = tmp_path / "Shared%20Drive" / "run?2 #3"
    place.mkdir(parents=True)
    assert why_not_writable(own_uri(place), "medcore") is None
    assert (place / "mlflow.db").is_file() and [*tmp_path.iterdir()] == [tmp_path / "Shared%20Drive"]


def test_a_note_from_before_there_was_a_choice_is_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path / "s", [])
    started(folder, "http://127.0.0.1:1")
    note = json.loads((folder / "tracking.json").read_text())
    del note["kind"]
    (folder / "tracking.json").write_text(json.dumps(note))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    tracker = saved_tracker(folder)
    assert isinstance(tracker, MlflowTracker) and tracker.uri == "http://127.0.0.1:1"
    assert tracker.study_id == note["study_id"]
