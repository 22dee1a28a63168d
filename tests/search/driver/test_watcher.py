"""The watcher on a real study without Ray: rows of trials that a scheduler stops."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from medcore.errors import StorageError
from results.store.trial_row import TrialRow
from results.store.trials import read_row, trial_folder, write_row
from search.driver import watcher
from search.driver.excluded_nodes import ExcludedNodes
from search.driver.job import Hooks, SearchJob
from search.driver.searcher import StudySearch
from search.driver.watcher import SearchState, Watcher
from search.trials.files import PHASE_CHECKPOINT
from tests.support.studies.searches import OBJECTIVES, space


@pytest.fixture
def watched(tmp_path: Path) -> Watcher:
    """Watch a study whose trial t0000 is issued and has a state."""
    searcher = StudySearch(SearchJob(tmp_path, space, OBJECTIVES, 4))
    searcher.suggest("tune0")
    (trial_folder(tmp_path, "t0000") / PHASE_CHECKPOINT).write_text("state")
    return Watcher(SearchState(tmp_path, 0, ExcludedNodes(None), threading.Event()), searcher)


def test_the_next_phase_of_a_trial_is_passed_on(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    hooks = Hooks(on_phase=lambda *what: seen.append(what))
    searcher = StudySearch(SearchJob(tmp_path, space, OBJECTIVES, 4))
    events = Watcher(SearchState(tmp_path, 0, ExcludedNodes(None), threading.Event(), hooks), searcher)
    trial = SimpleNamespace(config={"trial_id": "t0003"})
    for result in ({"phase": "mlp", "following": "mlp refit"}, {"phase": "evaluation"}):
        events.on_trial_result(1, [trial], trial, result)
    assert seen == [("t0003", "mlp refit")]


def test_a_stopped_trial_has_a_row_and_no_state(watched: Watcher, tmp_path: Path) -> None:
    watched.on_stop("t0000", "heads")
    row = read_row(tmp_path, "t0000")
    assert row is not None and row.status == "stopped"
    assert not (trial_folder(tmp_path, "t0000") / PHASE_CHECKPOINT).exists()


def test_a_stopped_trial_keeps_its_state_if_its_row_cannot_be_written(
    watched: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(study: Path, row: TrialRow) -> None:
        raise StorageError("row.json: cannot be written")

    monkeypatch.setattr(watcher, "write_row", full)
    watched.on_stop("t0000", "heads")
    assert watched.searcher.problem == "row.json: cannot be written" and read_row(tmp_path, "t0000") is None
    assert (trial_folder(tmp_path, "t0000") / PHASE_CHECKPOINT).exists()


def test_the_row_of_a_worker_that_was_cut_off_stays(watched: Watcher, tmp_path: Path) -> None:
    write_row(tmp_path, TrialRow("t0000", 0, "done", metrics={"cost": 1.0}))
    watched.on_stop("t0000", "heads")
    row = read_row(tmp_path, "t0000")
    assert row is not None and row.status == "done"
