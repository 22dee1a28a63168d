"""MLflow as a follower: real SQLite stores and a real server that goes away and comes back."""

from __future__ import annotations

import json
import os
import random
import signal
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from mlflow import MlflowClient

import search.tracking.mlflow_client
import search.tracking.points as data
from medcore.errors import MedcoreError
from results.store.trials import read_study, read_study_info, write_phases, write_row, write_study
from search.base.lock import only_driver
from search.base.logins import hide_login
from search.commands.sync import sync_study
from search.tracking.remote import download_study, send_report
from search.tracking.tracker import Tracker, TrackingThread
from tests.support.helpers import held_port

OBJECTIVES = [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
CONFIG = {
    "study": "s",
    "data": {"folders": ["/data/kvasir"]},
    "search": {"trials": 4, "objectives": OBJECTIVES},
    "tracking": {"uri": "http://me:secret@h:1"},
}


def make_study(folder: Path, points: list[tuple[float, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("study: s\nsearch: {trials: 4}\ntracking: {uri: 'http://me:secret@h:1/x@y'}\n")
    reference = {"flops": 101.0, "boundary_f1": 0.0}
    info = {"name": "s", "objectives": OBJECTIVES, "reference": reference}
    write_study(folder, info | {"dense": {"flops": 100.0, "boundary_f1": 0.9}, "widths": {"heads": 3, "channels": 8}})
    for number, (flops, f1) in enumerate(points):
        add_trial(folder, number, flops, f1)
    return folder


def add_trial(folder: Path, number: int, flops: float, f1: float, reason: str | None = None) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    row: dict[str, Any] = {
        "trial_id": f"t{number:04d}",
        "number": number,
        "status": "failed" if reason else "done",
        "reason": reason,
        "seed": 10 + number,
        "origin": "sampled",
        "param/heads/00": 0.5,
        "param/order": "heads_first",
        "started": start.isoformat(),
        "finished": (start + timedelta(seconds=30)).isoformat(),
    }
    if reason is None:
        row |= {"flops": flops, "boundary_f1": f1, "dice/a b": 0.9, "heads": [3, 0, 2], "hd95": float("nan")}
        steps = [{"phase": "heads_recovery", "step": i, "name": "loss", "value": 1 / (i + 1)} for i in range(20)]
        write_phases(folder, row["trial_id"], steps)
    write_row(folder, row)


def children(uri: str) -> dict[str, Any]:
    """Trial id -> run, asserting that no trial has two."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`medcore.trial_id` != ''", max_results=1000)
    ids = [run.data.tags["medcore.trial_id"] for run in runs]
    assert len(ids) == len(set(ids))
    return dict(zip(ids, runs, strict=True))


def parents(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`medcore.study` != ''"))


def started(folder: Path, uri: str | None = None) -> Tracker:
    tracker = Tracker(folder, uri, "medcore", "s")
    tracker.start(CONFIG, {"git": "abc", "machine": "laptop"})
    return tracker


class Server:
    """A real tracking server on a port that is held for it, with its store in `folder`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self._folder, self.artifacts = port, folder, folder / "artifacts"
        self.start()

    def start(self) -> None:
        """Start without waiting for it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        self._process = subprocess.Popen(
            [*command, "--artifacts-destination", str(self.artifacts)],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        assert eventually(lambda: healthy(self.port), 150), "mlflow server did not start"

    def kill(self) -> None:
        """The server and its workers, which share its session."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module", autouse=True)
def early_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started with the first test of the file: it is ready when its own test comes."""
    with held_port() as port:
        server = Server(tmp_path_factory.mktemp("server"), port)
        yield server
        server.kill()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated store for tests that do not need their own: migrations take seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def store(sqlite: str) -> Iterator[str]:
    client = MlflowClient(sqlite)
    experiment = client.get_experiment_by_name("medcore")
    if experiment is not None:
        client.rename_experiment(experiment.experiment_id, f"old-{time.time_ns()}")
    yield sqlite


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is away as long as the test runs."""
    with held_port() as port:
        yield f"http://127.0.0.1:{port}"


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
    assert files == {"config.yaml", "front.csv", "front.html", "images.parquet", "study.json", "trials.parquet"}
    assert (folder / "mlartifacts").is_dir()


def test_curves_of_a_study_that_is_sent_late_are_whole(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (90, 0.7)])
    assert started(folder, store).sync()  # another process goes on after an outage
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


@pytest.mark.parametrize("filled", [0, 1])
def test_of_two_parents_the_one_with_children_stays(tmp_path: Path, store: str, filled: int) -> None:
    """They were begun at the same time, so only their children tell them apart."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    tracker, client = started(folder, store), MlflowClient(store)
    experiment = search.mlflow_client.experiment_id(client, store, "medcore")
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
        raise ConnectionError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(search.mlflow_client, "log_datasets", cut_off)
        assert not started(folder, store).sync()
    (half,) = parents(store)
    assert half.data.params["search.trials"] == "4" and not half.inputs.dataset_inputs
    MlflowClient(store).delete_tag(half.info.run_id, "medcore.git")

    again = Tracker(folder, store, "medcore", "s")
    again.start(CONFIG | {"search": {"trials": 6, "sampler": "tpe"}})
    assert again.sync() and again.sync()
    (parent,) = parents(store)
    assert parent.info.run_id == half.info.run_id and parent.data.tags["medcore.described"] == "true"
    assert parent.data.params["search.trials"] == "4" and parent.data.params["search.driver.searcher"] == "tpe"
    assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["kvasir"]
    assert "config.yaml" in {item.path for item in MlflowClient(store).list_artifacts(parent.info.run_id)}


def test_unsent_counts_what_never_arrived(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    tracker = started(folder, store)
    assert tracker.unsent() == 2
    assert tracker.sync() and tracker.unsent() == 0

    def away(_: str) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(search.mlflow_client, "connect", away)
    tracker._forget()
    add_trial(folder, 2, 30, 0.6)
    message = tracker.finish()
    assert message is not None and message.startswith("1 trials could not be sent")


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
        sync_study(folder, store)
    row.write_bytes(whole[0])
    phases.write_bytes(whole[1])
    assert sync_study(folder, store) == 4
    assert {run.info.status for run in children(store).values()} == {"FINISHED"} and len(children(store)) == 4


def test_sync_does_not_wake_a_run_that_its_search_has_ended(tmp_path: Path, store: str) -> None:
    """A search that was stopped holds its lock a moment longer than its run goes on."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).finish(complete=False) is None
    with only_driver(folder):
        sync_study(folder)
    assert parents(store)[0].info.status == "KILLED"


def test_sync_leaves_the_parent_as_the_search_is(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7), (30, 0.6)])
    started(folder, store)
    with only_driver(folder):
        assert sync_study(folder) == 3
        assert parents(store)[0].info.status == "RUNNING"
    sync_study(folder)
    assert parents(store)[0].info.status == "KILLED"
    add_trial(folder, 3, 20, 0.5)
    assert sync_study(folder) == 4
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
    assert sync_study(folder) == 1  # at the server that it went to
    after = children(store)["t0000"]
    assert before.info.run_id == after.info.run_id and before.data.metrics == after.data.metrics
    history = MlflowClient(store).get_metric_history(after.info.run_id, "heads_recovery/loss")
    assert len(history) == 20


def test_study_comes_back_from_the_store(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    assert started(folder, store).finish() is None
    copy = tmp_path / "copy"
    copy.mkdir()
    assert download_study("mlflow:medcore/s", copy, store) == copy
    assert read_study(copy).equals(read_study(folder))
    assert read_study_info(copy) == read_study_info(folder)
    with pytest.raises(MedcoreError, match="no such run"):
        download_study("mlflow:medcore/other", copy, store)
    with pytest.raises(MedcoreError, match=r"expected mlflow:<experiment>/<run>"):
        download_study("mlflow:medcore", copy, store)


def test_a_store_is_asked_by_writing_to_it(store: str) -> None:
    """The experiment is made where there is none, as the search would make it, and asked again."""
    assert [search.mlflow_client.why_not_writable(store, "medcore") for _ in range(2)] == [None, None]
    file = store.removeprefix("sqlite:///")
    reason = search.mlflow_client.why_not_writable(f"sqlite:///file:{file}?mode=ro&uri=true", "medcore")
    assert reason is not None and "readonly database" in reason


def test_no_server_no_error(tmp_path: Path, dead: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens: one warning however often it is tried, and the command that sends the rows later."""
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
        sync_study(folder)
    with pytest.raises(MedcoreError, match=r"tracking\.json"):
        sync_study(tmp_path)


def test_server_killed_and_back(tmp_path: Path, early_server: Server) -> None:
    """Rows that end while the server is away reach it when it is back, each once."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    server, uri = early_server, f"http://127.0.0.1:{early_server.port}"
    try:
        server.wait()
        tracker = Tracker(folder, uri, "medcore-server", "s")
        tracker.start(CONFIG)
        with TrackingThread(tracker, seconds=0.2):
            assert eventually(lambda: tracker.unsent() == 0 and bool(tracker._sent), 60)
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


def test_start_keeps_the_identity(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [])
    started(folder)
    first = json.loads((folder / "tracking.json").read_text())
    started(folder, "http://127.0.0.1:1")
    second = json.loads((folder / "tracking.json").read_text())
    assert first["study_id"] == second["study_id"] and second["uri"] == "http://127.0.0.1:1"
    assert Tracker(folder).uri == "http://127.0.0.1:1"
    assert Tracker(folder, "http://127.0.0.1:2").uri == "http://127.0.0.1:2"
    (folder / "tracking.json").write_text("{")
    with pytest.raises(MedcoreError, match=r"tracking\.json: corrupt"):
        started(folder)


def test_a_login_is_kept_nowhere(
    tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And a search that goes on without it says so, unless it comes from the environment."""
    folder, uri = make_study(tmp_path / "s", [(50, 0.8)]), dead
    tracker = started(folder, uri.replace("//", "//me:secret@"))
    assert "secret" in tracker.uri and not tracker.sync()
    assert "cannot be reached" in caplog.text and "secret" not in caplog.text
    assert "secret" not in (folder / "tracking.json").read_text()
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for _ in range(2):
        with pytest.raises(MedcoreError, match="is not kept; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASS"):
            Tracker(folder)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            assert started(folder).uri == uri
    started(folder, "postgresql://me:secret@h/mlflow")
    with pytest.raises(MedcoreError, match=r"postgresql://h/mlflow is not kept; give --tracking-uri again"):
        sync_study(folder)
    started(folder, uri)
    assert Tracker(folder).uri == uri


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def eventually(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def test_names_and_description_tell_what_was_done(tmp_path: Path, sqlite: str) -> None:
    row = {"trial_id": "t0017", "status": "done", "flops_paper_fraction": 0.412, "boundary_f1": 0.7126}
    assert data.run_name(row) == "t0017 · 41 % FLOPs · BF1 0.713"
    assert data.run_name({"trial_id": "t0001", "status": "failed"}) == "t0001 · failed"
    make_study(tmp_path / "described", [(10.0, 0.7)])
    assert started(tmp_path / "described", sqlite).sync()
    (parent,) = [run for run in parents(sqlite) if "described" in run.data.tags.get("mlflow.note.content", "")]
    text = parent.data.tags["mlflow.note.content"]
    assert "objectives: flops down, boundary_f1 up" in text
    assert f"medcore export {tmp_path / 'described'} --select knee --out best.safetensors" in text


def test_a_report_joins_the_parent_run_and_leaves_its_status(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [(50.0, 0.8)])
    page = tmp_path / "mine.html"
    page.write_text("<p>report</p>")
    reason = send_report(study, page)
    assert reason is not None and "tracking.json" in reason
    started(study).finish()
    sheet = tmp_path / "t0000.png"
    sheet.write_bytes(b"a picture")
    (tmp_path / "private.txt").write_text("lies beside the sheet")
    assert send_report(study, page, [sheet]) is None
    uri = f"sqlite:///{study / 'mlflow.db'}"
    (parent,) = parents(uri)
    assert parent.info.status == "FINISHED"
    client = MlflowClient(uri)
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert [item.path for item in client.list_artifacts(parent.info.run_id, "sheets")] == ["sheets/t0000.png"]


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("http://user:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://h/db?user=a&password=s3&ssl=1", "postgresql://h/db?user=…&password=…&ssl=1"),
        ('["http://host","x@y"]', '["http://host","x@y"]'),
    ],
)
def test_logins_are_hidden_wherever_an_address_holds_them(text: str, public: str) -> None:
    assert hide_login(text) == public


def test_a_password_of_any_legal_characters_is_hidden() -> None:
    """RFC 3986: unreserved characters, delimiters of parts and escapes; in an address, a configuration, a message."""
    rng = random.Random(0)
    legal = string.ascii_letters + string.digits + "-._~" + "!$&'()*+,;=" + ":" + "%"
    for _ in range(100):
        first, second = ("".join(rng.choices(legal, k=rng.randint(1, 12))) for _ in range(2))
        inner = second.replace("&", "'") + rng.choice(["", "/", "?", "@", "'", ":"])
        for address, public in (
            (f"https://me:{first}@host:5000/mlflow", "https://host:5000/mlflow"),
            (f"https://{first}@host", "https://host"),
            (f"http://h/x@y?a=1&password={inner}", "http://h/x@y?a=1&password=…"),
            (f"http://h/?token={inner}&b=it's", "http://h/?token=…&b=it's"),
            (f"postgresql+psycopg2://me:{first}/{second}@host/db", "postgresql+psycopg2://host/db"),
        ):
            assert hide_login(address) == public
            assert urlsplit(public).username is None
            for values, hidden in ((address, public), ([address, "x@y"], [public, "x@y"])):
                shown = yaml.safe_load(hide_login(yaml.safe_dump({"tracking": {"uri": values}, "mail": "x@y"})))
                assert shown == {"tracking": {"uri": hidden}, "mail": "x@y"}
                assert json.loads(hide_login(json.dumps([values, "x@y"]))) == [hidden, "x@y"]
            assert hide_login(f"MLflow at {address} is away") == f"MLflow at {public} is away"
