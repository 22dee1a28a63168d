"""Writing by rename: a reader sees the old file or the new one, and writers never share a temporary name."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

import pytest
import torch

import medcore.files
from medcore.data.splits import save_manifest
from medcore.files import cannot_write, first_line, replacing
from medcore.models.checkpoint import save
from medcore.scoring.sums import CalibrationSums
from medcore.synthetic.write import write_folder
from medcore.training.train import TrainSettings, train
from results.store.files import write_by_rename
from tests.medcore.scoring.test_criteria import random_table
from tests.support.training_samples import random_images, tiny_model


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError), replacing(tmp_path / "taken") as temporary:
        temporary.write_text("a file cannot replace a folder")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old" and names(tmp_path) == ["a.json", "taken"]


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((tmp_path / "a").exists()))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert synced == [False]


def test_equal_process_numbers_on_one_or_two_machines_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    seen = set()
    for host in ("node1", "node2", "node2"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text(host)
            seen.add(temporary.name)
    assert len(seen) == 3


def test_every_writer_goes_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    before = medcore.files.replacing

    def noted(path: Path):  # type: ignore[no-untyped-def]
        written.append(path.name)
        return before(path)

    for module in ("checkpoint", "score_table", "splits", "sums", "synthetic", "train_state"):
        monkeypatch.setattr(f"medcore.{module}.replacing", noted)
    monkeypatch.setattr("results.store.files.replacing", noted)
    model = tiny_model()
    save(tmp_path / "model", model)
    random_table().save(tmp_path / "table")
    CalibrationSums.zeros(model, (0.0,)).save(tmp_path / "sums")
    save_manifest(tmp_path / "splits", {})
    train(model, random_images(2), None, TrainSettings(epochs=1), 0, state_path=tmp_path / "state")
    write_by_rename(tmp_path / "row", b"{}")
    expected = ["model", "row", "splits", "state", "sums", "table"]
    assert sorted(written) == expected == names(tmp_path)
    write_folder(tmp_path / "images", "medical", 1, 32, seed=0)
    assert written[6:] == ["medical_0000.png", "medical_0000.png", "splits.json"]


def test_first_line_of_an_error() -> None:
    assert first_line(ValueError(" one\ntwo")) == "one"
    assert first_line(torch.OutOfMemoryError()) == "OutOfMemoryError"
    assert len(first_line(ValueError("x" * 500))) == 120


def test_why_a_file_cannot_be_written_is_told_in_the_systems_words_whoever_says_it() -> None:
    theirs = RuntimeError(f"Error while serializing: I/O error: Read-only (os error {errno.EROFS}) at path /a/b")
    for error in (theirs, OSError(errno.EROFS, "ignored"), PermissionError(errno.EACCES, "ignored")):
        message = str(cannot_write(Path("a/b"), error))
        assert re.fullmatch(r"a/b: cannot be written \((Read-only file system|Permission denied)\); .*", message)
    assert "free some space" in str(cannot_write(Path("b"), ValueError(f"(os error {errno.ENOSPC})")))
    assert str(cannot_write(Path("b"), ValueError("odd\nvery"))).startswith("b: cannot be written (odd); ")
