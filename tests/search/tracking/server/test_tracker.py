"""What of a study arrives in MLflow: real SQLite stores."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from medcore.errors import MedcoreError
from search.base.lock import only_driver
from search.commands.sync import sync
from tests.support.studies.tracked_study import add_trial, make_study
from tests.support.studies.tracking import children, mlflow_tracker, parents, started


def test_one_run_a_trial_with_everything(tmp_path: Path) -> None:
    """The default store, inside the study's folder."""
    folder = make_study(tmp_path / "s", [(50, 0.8), (90, 0.7)])
    add_trial(folder, 2, 0, 0, reason="MemoryError: too big")
    tracker = started(folder)
    assert tracker.sync() and tracker.sync()
    add_trial(folder, 3, 40, 0.9)  # dominates both
    assert tracker.finish() is None

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    runs = children(uri)
    assert sorted(runs) == ["t0000", "t0001", "t0002", "t0003"]
    good, bad = runs["t0000"], runs["t0002"]
    assert good.info.status == "FINISHED" and bad.info.status == "FAILED"
    assert bad.data.tags["medcore.reason"] == "MemoryError: too big"
    assert good.data.params == {"heads/00": "0.5", "order": "heads_first", "seed": "10", "heads": "[3,0,2]"}
    assert good.data.metrics["flops"] == 50 and good.data.metrics["dice/a b"] == 0.9
    assert "hd95" not in good.data.metrics and "number" not in good.data.metrics
    assert good.info.end_time - good.info.start_time == 30_000
    history = MlflowClient(uri).get_metric_history(good.info.run_id, "heads_recovery/loss")
    assert [(point.step, point.value) for point in history] == [(i, 1 / (i + 1)) for i in range(20)]
    assert {key for key, run in runs.items() if run.data.tags.get("medcore.front") == "true"} == {"t0003"}
    assert runs["t0000"].data.tags["medcore.front"] == "false"  # it was on the front before
    ranks = {key: run.data.tags.get("medcore.front_rank") for key, run in runs.items()}
    assert ranks == {"t0000": "2", "t0001": "3", "t0002": None, "t0003": "1"}

    (parent,) = parents(uri)
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in runs.values())
    assert parent.info.status == "FINISHED" and parent.data.tags["medcore.git"] == "abc"
    assert parent.data.params["search.trials"] == "4"
    assert parent.data.metrics["trials_done"] == 3 and parent.data.metrics["trials_failed"] == 1
    assert parent.data.metrics["hypervolume"] == pytest.approx((101 - 40) * 0.9)
    assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["kvasir"]
    assert parent.data.params["tracking.uri"] == "http://h:1"
    config = MlflowClient(uri).download_artifacts(parent.info.run_id, "config.yaml", str(tmp_path))
    assert Path(config).read_text() == (folder / "config.yaml").read_text().replace("me:secret@", "")
    files = {item.path for item in MlflowClient(uri).list_artifacts(parent.info.run_id)}
    fronts = {f"front.{ending}" for ending in ("csv", "html", "png", "svg")}
    assert files == {"config.yaml", *fronts, "images.parquet", "study.json", "trials.parquet"}
    assert (folder / "mlartifacts").is_dir()

    moved = folder.rename(tmp_path / "its new place")
    mlflow_tracker(moved).attach({"notes.txt": moved / "config.yaml"})
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    shutil.copyfile(moved / "mlflow.db", tmp_path / "new.db")
    (parent,) = parents(uri)
    assert unquote(parent.info.artifact_uri).startswith(f"file://{moved}/mlartifacts/")
    assert {item.path for item in MlflowClient(uri).list_artifacts(parent.info.run_id)} == {*files, "notes.txt"}
    assert not folder.exists()


def test_curves_of_a_study_that_is_sent_late_are_whole(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (90, 0.7)])
    assert started(folder, store).sync()  # another process continues after an outage
    add_trial(folder, 2, 0, 0, reason="MemoryError: too big")
    add_trial(folder, 3, 40, 0.9)
    assert started(folder, store).sync()
    (parent,) = parents(store)

    def curve(key: str) -> list[tuple[int, float]]:
        history = MlflowClient(store).get_metric_history(parent.info.run_id, key)
        return [(point.step, round(point.value, 6)) for point in history]

    assert curve("trials_done") == [(1, 1), (2, 2), (3, 2), (4, 3)]
    assert curve("trials_failed") == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert curve("best/flops") == [(1, 50), (2, 50), (3, 50), (4, 40)]
    # t0001 is dominated: the volume up to (101, 0) does not grow before t0003
    assert curve("hypervolume") == [(1, 40.8), (2, 40.8), (3, 40.8), (4, 54.9)]


def test_a_corrupt_row_is_named_and_the_others_are_sent(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_study(tmp_path / "s", [(100, 0.9), (50, 0.8), (40, 0.7), (30, 0.6)])
    tracker = started(folder, store)
    row, phases = folder / "trials" / "t0001" / "row.json", folder / "trials" / "t0002" / "phases.json"
    whole = row.read_bytes(), phases.read_bytes()
    row.write_text("{")
    phases.write_text("[")
    assert not tracker.sync() and not tracker.sync()
    finished = {trial_id for trial_id, run in children(store).items() if run.info.status == "FINISHED"}
    assert finished == {"t0000", "t0003"} and tracker.unsent() == 2
    for trial_id, path in (("t0001", row), ("t0002", phases)):
        assert caplog.text.count(f"trial {trial_id} is not sent to MLflow: {path}: corrupt") == 1
    with pytest.raises(MedcoreError, match="not everything could be sent"):
        sync(folder, store)
    row.write_bytes(whole[0])
    phases.write_bytes(whole[1])
    assert sync(folder, store) == 4
    assert {run.info.status for run in children(store).values()} == {"FINISHED"} and len(children(store)) == 4


def test_sync_does_not_wake_a_run_that_its_search_has_ended(tmp_path: Path, store: str) -> None:
    """A search that was stopped holds its lock a moment longer than its run lasts."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).finish(complete=False) is None
    with only_driver(folder):
        sync(folder, store)
    assert parents(store)[0].info.status == "KILLED"


def test_sync_leaves_the_parent_as_the_search_is(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7), (30, 0.6)])
    started(folder, store)
    with only_driver(folder):
        assert sync(folder, store) == 3
        assert parents(store)[0].info.status == "RUNNING"
    sync(folder, store)
    assert parents(store)[0].info.status == "KILLED"
    add_trial(folder, 3, 20, 0.5)
    assert sync(folder, store) == 4
    assert parents(store)[0].info.status == "FINISHED"


def test_artifacts_lie_beside_the_database(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert started(make_study(tmp_path / "s", [(50, 0.8)]), store).finish() is None
    experiment = MlflowClient(store).get_experiment_by_name("medcore")
    assert experiment is not None
    database = Path(store.removeprefix("sqlite:///"))
    assert experiment.artifact_location == (database.parent / "mlartifacts").as_uri()
    assert list(elsewhere.iterdir()) == []


def test_same_study_again_adds_nothing(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).finish() is None
    before = children(store)["t0000"]
    assert sync(folder, store) == 1
    after = children(store)["t0000"]
    assert before.info.run_id == after.info.run_id and before.data.metrics == after.data.metrics
    history = MlflowClient(store).get_metric_history(after.info.run_id, "heads_recovery/loss")
    assert len(history) == 20
