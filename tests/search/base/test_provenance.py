"""Where a row came from: no answer rather than a wrong one, and never an error."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from search.base import provenance

IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that tracks `search/code.py` and ignores `.venv`."""
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "code.py").write_text("1\n")
    (tmp_path / ".gitignore").write_text(".venv\n")
    for arguments in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-qm", "one"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_revision_of_a_checkout(checkout: Path) -> None:
    file = checkout / "search" / "code.py"
    assert re.fullmatch(r"[0-9a-f]{12}", provenance.revision_of(file))
    file.write_text("2\n")
    assert re.fullmatch(r"[0-9a-f]{12}\+dirty", provenance.revision_of(file))


def test_a_copy_in_another_repository_is_not_that_repository(checkout: Path) -> None:
    file = checkout / ".venv" / "lib" / "search" / "code.py"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    assert provenance.revision_of(file) == "unknown"


def test_git_that_hangs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert provenance.revision_of(checkout / "search" / "code.py") == "unknown"


def test_code_that_runs_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("medcore-absent", "torch"))
    versions = provenance.versions()
    assert versions["medcore-absent"] == "unknown" and versions["torch"] != "unknown"
