"""Which runs of a study are found, kept and added to in MLflow."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from medcore.errors import TrackingError
from search.tracking.remote import send_report
from search.tracking.server import client as mlflow_client
from search.tracking.server.runs import why_not_writable
from tests.support.studies.tracked_study import CONFIG, add_trial, make_study
from tests.support.studies.tracking import children, mlflow_tracker, parents, started


def test_killed_between_create_and_finish(tmp_path: Path, store: str) -> None:
    """Another process finds the half-made run by its tag and fills it; a doubled one is removed."""
    folder = make_study(tmp_path / "s", [(50, 0.8), (90, 0.7)])
    assert started(folder, store).sync()
    (parent,) = parents(store)
    client = MlflowClient(store)
    add_trial(folder, 2, 30, 0.6)
    tags = {"medcore.trial_id": "t0002", "mlflow.parentRunId": parent.info.run_id}
    half = [client.create_run(parent.info.experiment_id, tags=tags) for _ in range(2)]
    client.log_metric(half[0].info.run_id, "flops", 30.0, timestamp=1)

    assert started(folder, store).sync()
    runs = children(store)
    assert sorted(runs) == ["t0000", "t0001", "t0002"]
    assert runs["t0002"].info.run_id in {run.info.run_id for run in half}
    assert runs["t0002"].info.status == "FINISHED" and runs["t0002"].data.metrics["boundary_f1"] == 0.6
    assert len(parents(store)) == 1


def test_a_half_sent_run_keeps_the_parameters_that_it_has(tmp_path: Path, store: str) -> None:
    """An earlier version wrote some values differently, and MLflow refuses to change them."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).sync()
    (parent,) = parents(store)
    add_trial(folder, 1, 30, 0.6)
    client = MlflowClient(store)
    tags = {"medcore.trial_id": "t0001", "mlflow.parentRunId": parent.info.run_id}
    half = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    client.log_param(half, "order", "yes")

    assert started(folder, store).sync()
    run = children(store)["t0001"]
    assert run.info.run_id == half and run.info.status == "FINISHED"
    assert run.data.params["order"] == "yes" and run.data.params["heads/00"] == "0.5"


def test_a_rank_that_a_user_has_edited_is_written_again(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).finish() is None
    MlflowClient(store).set_tag(children(store)["t0000"].info.run_id, "medcore.front_rank", "best")
    assert started(folder, store).finish() is None
    assert children(store)["t0000"].data.tags["medcore.front_rank"] == "1"


@pytest.mark.parametrize("filled", [0, 1])
def test_of_two_parents_the_one_with_children_stays(tmp_path: Path, store: str, filled: int) -> None:
    """Tell the processes apart by their children, because they started at the same time."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    tracker, client = started(folder, store), MlflowClient(store)
    experiment = mlflow_client.Server(store).experiment("medcore")
    both = [client.create_run(experiment, 7, {"medcore.study": tracker.study_id}).info.run_id for _ in range(2)]
    full, empty = (both, both[::-1])[filled]
    child = client.create_run(experiment, tags={"medcore.trial_id": "t0000", "mlflow.parentRunId": full})
    assert tracker.sync()
    assert [run.info.run_id for run in parents(store)] == [full] != [empty]
    assert children(store)["t0000"].info.run_id == child.info.run_id


def test_half_made_parent_is_completed(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the middle of its description, and taken up by a search with another number of trials."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])

    def cut_off(*_: Any) -> None:
        raise TrackingError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_client.Server, "log_datasets", cut_off)
        assert not started(folder, store).sync()
    (half,) = parents(store)
    assert half.data.params["search.trials"] == "4" and not half.inputs.dataset_inputs
    MlflowClient(store).delete_tag(half.info.run_id, "medcore.git")

    again = mlflow_tracker(folder, store)
    again.start(CONFIG | {"search": {"trials": 6, "sampler": "tpe"}})
    assert again.sync() and again.sync()
    (parent,) = parents(store)
    assert parent.info.run_id == half.info.run_id and parent.data.tags["medcore.described"] == "true"
    assert parent.data.params["search.trials"] == "4" and parent.data.params["search.sampler"] == "tpe"
    assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["kvasir"]
    assert "config.yaml" in {item.path for item in MlflowClient(store).list_artifacts(parent.info.run_id)}


def test_a_store_is_asked_by_writing_to_it(store: str) -> None:
    """The experiment is made where there is none, as the search would make it, and asked again."""
    assert [why_not_writable(store, "medcore") for _ in range(2)] == [None, None]
    file = store.removeprefix("sqlite:///")
    reason = why_not_writable(f"sqlite:///file:{file}?mode=ro&uri=true", "medcore")
    assert reason is not None and "readonly database" in reason


def test_a_report_joins_the_parent_run_and_leaves_its_status(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [(50.0, 0.8)])
    page = tmp_path / "mine.html"
    page.write_text("<p>report</p>")
    reason = send_report(study, page)
    assert reason is not None and "tracking.json" in reason
    started(study).finish()
    sheet = tmp_path / "t0000.png"
    Image.new("RGB", (4, 4)).save(sheet)
    (tmp_path / "private.txt").write_text("lies next to the sheet")
    reason = send_report(study, tmp_path / "absent.html")
    assert reason is not None and "(No such file or directory)" in reason
    assert send_report(study, page, [sheet]) is None
    uri = f"sqlite:///{study / 'mlflow.db'}"
    (parent,) = parents(uri)
    assert parent.info.status == "FINISHED"
    client = MlflowClient(uri)
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert [item.path for item in client.list_artifacts(parent.info.run_id, "sheets")] == ["sheets/t0000.png"]


def test_a_deleted_experiment_is_named_with_its_remedy(store: str) -> None:
    client = MlflowClient(store)
    number = client.create_experiment("medcore")
    client.delete_experiment(number)
    reason = why_not_writable(store, "medcore")
    assert reason is not None and f"--experiment-id {number}" in reason and "tracking.experiment" in reason
    assert why_not_writable(store, "another") is None


@pytest.mark.parametrize("version", ["451aebb31d03", "ffffffffffff"])
def test_a_database_of_another_version_is_named_with_its_remedy(store: str, version: str) -> None:
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = ?", (version,))
    reason = why_not_writable(store, "medcore")
    assert reason is not None and "mlflow db upgrade" in reason and "\n" not in reason


@pytest.mark.parametrize("place", ["s3://bucket/x", "http://127.0.0.1:1/x", "/elsewhere", "file:///elsewhere"])
def test_a_study_s_own_database_stores_files_in_the_study_only(tmp_path: Path, migrated: Path, place: str) -> None:
    """A database of someone else could name a bucket, which MLflow opens with the user's keys."""
    study = make_study(tmp_path / "s", [(50.0, 0.8)])
    shutil.copyfile(migrated, study / "mlflow.db")
    assert started(study).finish() is None
    page = tmp_path / "mine.html"
    page.write_text("<p>report</p>")
    assert send_report(study, page) is None
    with sqlite3.connect(study / "mlflow.db") as database:
        database.execute("update runs set artifact_uri = ?", (place,))
    reason = send_report(study, page)
    assert reason is not None and f"wants its files at {place}, outside of the study" in reason
