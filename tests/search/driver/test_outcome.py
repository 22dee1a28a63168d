"""The end of a search in which no trial was completed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.driver.outcome import Outcome, outcome_of
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import write_tiny_study
from tests.support.studies.tracked_study import add_trial, make_study


def outcome(study: Path, trials: int) -> Outcome:
    return outcome_of(study, trials, False, problem=None, excluded=(), command="medcore search c.yaml --resume")


def test_the_commonest_reason_is_told(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", [])
    for number, reason in enumerate(["ValueError: x", "OSError: \x1b[2J", "ValueError: x"]):
        add_trial(study, number, 0, 0, reason=reason)
    found = outcome(study, 3)
    assert found.complete and found.is_empty
    assert found.message == "0 trials done, 3 failed (2 of them: ValueError: x)"
    add_trial(study, 3, 50, 0.8)
    assert not outcome(study, 4).is_empty and outcome(study, 4).message == "1 trials done, 3 failed"
    assert not outcome(study, 5).is_empty


def test_such_a_search_ends_with_1_and_recommends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_: Any, say: Any, **__: Any) -> Outcome:
        say("0 trials done, 2 failed (2 of them: ValueError: x)")
        return Outcome(0, 2, 2, False, "")

    monkeypatch.setattr("search.commands.search.search", failed)
    done = medcore("search", write_tiny_study(tmp_path))
    assert done.returncode == 1 and "ValueError: x" in done.stdout
    assert "next:" not in done.stdout and "export" not in done.stdout
