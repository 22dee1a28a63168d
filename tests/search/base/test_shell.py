"""Commands that can be typed again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from search.base.shell import RESUME_COMMAND, option_words, program, resume_command


def test_no_login_in_a_printed_command() -> None:
    assert resume_command(Path("c.yaml"), trials=3, tracking_uri="http://me:secret@h:5000") == (
        "medcore search c.yaml --trials 3 --resume"
    )


def test_options_without_a_value_are_left_out() -> None:
    assert option_words({"ray_address": "h:1", "name": None, "trials": 0}) == ["--ray-address", "h:1", "--trials", "0"]


def test_a_job_prints_the_command_that_submitted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESUME_COMMAND, "medcore cluster submit c.yaml --resume")
    assert resume_command(Path("medcore-job.yaml"), trials=3) == "medcore cluster submit c.yaml --resume"


def test_programs_are_named_as_the_user_can_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("medcore", "mlflow"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "medcore"), "demo"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert program("mlflow") == str(tmp_path / "mlflow")
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    assert program("mlflow") == "mlflow"
    monkeypatch.setattr(sys, "argv", ["/somewhere/search/cli.py"])
    assert program("medcore") == "medcore"
