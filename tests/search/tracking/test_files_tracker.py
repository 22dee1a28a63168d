"""The tracker that writes text files, and what every tracker must do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medcore.errors import MedcoreError
from results.store.held_out import Measurement
from search.commands.search import finish_tracking
from search.commands.sync import sync
from search.tracking.files_tracker import FilesTracker
from search.tracking.remote import send_held_out, send_report
from search.tracking.tracker import TRACKERS, Destination, End, TrackingThread
from search.tracking.trackers import saved_tracker
from tests.support.helpers import files_of_at_most
from tests.support.machines.mlflow_server import eventually
from tests.support.studies.tracked_study import CONFIG, add_trial, make_study


def started_files(folder: Path, uri: str | None = None) -> FilesTracker:
    tracker = FilesTracker(Destination(folder, uri, "medcore", "s"))
    tracker.start(CONFIG, {"git": "abc"})
    return tracker


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_hold_what_a_server_gets(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    tracker = started_files(folder)
    assert tracker.sync()
    add_trial(folder, 1, 0, 0, reason="MemoryError: too big")
    study = folder / "tracking" / "study.json"
    assert json.loads(study.read_text())["status"] == "RUNNING"
    assert tracker.finish() is None
    about = json.loads(study.read_text())
    assert about["status"] == "FINISHED" and about["tags"] == {"git": "abc"} and about["datasets"] == ["/data/kvasir"]
    assert about["params"]["search.trials"] == "4" and "secret" not in study.read_text()
    good, bad = lines(folder / "tracking" / "trials.jsonl")
    assert good["params"] == {"heads/00": "0.5", "order": "heads_first", "seed": "10", "heads": "[3,0,2]"}
    assert good["metrics"] == {"flops": 50, "gflops": 50e-9, "boundary_f1": 0.8, "dice/a b": 0.9}
    assert [entry for entry in good["points"] if entry[1] == 19] == [["heads_recovery/loss", 19, 1 / 20]]
    assert (bad["status"], bad["tags"]["medcore.reason"]) == ("FAILED", "MemoryError: too big")


def test_each_trial_has_one_line_after_a_restart(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    started_files(folder).sync()
    first = json.loads((folder / "tracking.json").read_text())["study_id"]
    with TrackingThread(started_files(folder), seconds=0.05):
        add_trial(folder, 2, 30, 0.6)
        assert eventually(lambda: len(lines(folder / "tracking" / "trials.jsonl")) == 3, 20)
    assert sync(folder) == 3
    assert [line["trial_id"] for line in lines(folder / "tracking" / "trials.jsonl")] == ["t0000", "t0001", "t0002"]
    study = json.loads((folder / "tracking" / "study.json").read_text())
    assert study["status"] == "KILLED" and study["study_id"] == first


def test_a_folder_is_used_if_the_user_gives_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    started_files(folder, str(tmp_path / "shared"))
    with pytest.raises(MedcoreError, match="only a study names"):
        saved_tracker(folder)
    tracker = saved_tracker(folder, str(tmp_path / "shared"))
    assert isinstance(tracker, FilesTracker) and tracker.sync()
    assert tracker.address == str(tmp_path / "shared" / "medcore" / "s")
    assert (tmp_path / "shared" / "medcore" / "s" / "trials.jsonl").is_file()


def test_a_study_s_own_place_stays_below_it(tmp_path: Path) -> None:
    folder, away = make_study(tmp_path / "s", [(50, 0.8)]), tmp_path / "away"
    with pytest.raises(MedcoreError, match=r"'\.\./up' leaves the folder"):
        FilesTracker(Destination(folder, str(tmp_path / "shared"), "../up", "s"))
    (folder / "tracking").mkdir()
    (folder / "tracking" / "files").symlink_to(away)
    with pytest.raises(MedcoreError, match="is a link"):
        started_files(folder)
    assert not away.exists()


def test_trouble_is_logged_once_and_what_is_missing_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (40, 0.7)])
    (folder / "trials" / "t0001" / "row.json").write_text("{")
    tracker = started_files(folder)
    assert not tracker.sync() and not tracker.sync()
    assert caplog.text.count("t0001 is not sent") == 1
    message = tracker.finish()
    assert message is not None and "1 trials" in message and f"medcore sync {folder}" in message
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    elsewhere = started_files(folder, str(blocked))
    assert "cannot be written" in str(elsewhere.check())
    assert not elsewhere.sync() and not elsewhere.sync() and caplog.text.count("blocked/medcore/s cannot be") == 1


def test_reports_and_held_out_figures_are_added(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    for name in ("page.html", "t0000.png"):
        (tmp_path / name).write_text(name)
    started_files(folder)
    assert send_report(folder, tmp_path / "page.html", [tmp_path / "t0000.png"]) is None
    kept = folder / "tracking" / "files"
    assert (kept / "report.html").read_text() == "page.html" and (kept / "sheets" / "t0000.png").is_file()
    own = Measurement("t0000", False, None, "a", "val/report", "b", 7, {"dice": 0.5}, "2026-01-01T00:00:00+00:00", "g")
    for _ in range(2):
        assert send_held_out(folder, own, 1) is None
    (line,) = lines(folder / "tracking" / "held_out.jsonl")
    assert line["metrics"] == {"report/dice": 0.5} and line["trial_id"] == "t0000" and line["candidates"] == 1


@pytest.mark.parametrize("content", [b"{\n", b"[1]\n", b"\xff\n"])
def test_damaged_held_out_lines_are_a_sentence(tmp_path: Path, content: bytes) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    started_files(folder).sync()
    path = folder / "tracking" / "held_out.jsonl"
    path.write_bytes(content)
    own = Measurement("t0000", False, None, "a", "val/report", "b", 7, {"dice": 0.5}, "2026-01-01T00:00:00+00:00", "g")
    message = send_held_out(folder, own, 1)
    assert message is not None and f"{path}: cannot be read (" in message and "\n" not in message
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_copied_leaves_the_former_one(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    started_files(folder)
    page = tmp_path / "page.html"
    page.write_text("first")
    assert send_report(folder, page) is None
    page.write_text("longer" * 1000)
    with files_of_at_most(100):
        message = send_report(folder, page)
    assert message is not None and "cannot be written" in message
    kept = folder / "tracking" / "files"
    assert (kept / "report.html").read_text() == "first" and len(list(kept.iterdir())) == 1


def test_an_unexpected_error_neither_ends_the_thread_nor_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[End | None] = []

    class Broken(FilesTracker):
        def sync(self, end_as: End | None = None) -> bool:
            calls.append(end_as)
            raise KeyError("rank")

    tracker = Broken(Destination(make_study(tmp_path / "s", [(50, 0.8)])))
    with TrackingThread(tracker, seconds=0.01):
        assert eventually(lambda: len(calls) >= 3, 20)
    assert caplog.text.count("nothing is sent to the tracking folder: KeyError: 'rank'") == 1
    finish_tracking(tracker, complete=True)
    assert calls[-1] == "FINISHED" and "the study's end was not sent" in caplog.text


def test_a_tracker_of_one_s_own_is_used_by_its_name(tmp_path: Path) -> None:
    """Send a study to the tracker that is named in its folder."""
    folder = make_study(tmp_path / "s", [(50, 0.8)])

    @TRACKERS.register("counting")
    class Counting(FilesTracker):
        calls: int = 0

        def sync(self, end_as: Any = None) -> bool:
            Counting.calls += 1
            return True

    Counting(Destination(folder)).start(CONFIG)
    note = json.loads((folder / "tracking.json").read_text())
    (folder / "tracking.json").write_text(json.dumps(note | {"kind": "counting"}))
    assert sync(folder) == 1 and Counting.calls == 1
