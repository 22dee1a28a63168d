"""Writing by rename: a reader sees the old file or the new one, and writers never share a temporary name."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from medcore.data.split_files import SplitFile, write_split_file
from medcore.errors import MedcoreError, StorageError
from medcore.files import cannot_write, is_locked, locked, refuse_links, refuse_links_below, replacing
from medcore.models.checkpoint import save
from medcore.scoring.sums import CalibrationSums
from medcore.synthetic.write import write_folder
from medcore.training.train import TrainSettings, train
from results.store.files import write_by_rename
from tests.support.helpers import files_of_at_most
from tests.support.scoring_samples import random_table
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


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_weights_tables_and_sums_have_the_permissions_of_any_new_file(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save(tmp_path / "model.safetensors", tiny_model())
        random_table().save(tmp_path / "scores.safetensors")
        write_by_rename(tmp_path / "row.json", b"{}")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ["model.safetensors", "scores.safetensors", "row.json"], mode
    )


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


#: Writers of single files; each takes the path.
WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda path: save(path, tiny_model()),
    "score table": lambda path: random_table().save(path),
    "sums": lambda path: CalibrationSums.zeros(tiny_model(), (0.0,)).save(path),
    "splits": lambda path: write_split_file(path, SplitFile({"train": [f"image {n}" for n in range(20)]})),
    "row": lambda path: write_by_rename(path, 200 * b" "),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_write_that_is_cut_off_leaves_the_former_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    with files_of_at_most(100), pytest.raises((OSError, MedcoreError)):
        write(path)
    assert path.read_text() == "former" and names(tmp_path) == ["file"]
    write(path)
    assert path.stat().st_size > 100 and names(tmp_path) == ["file"]


def test_what_writes_many_files_or_often_leaves_no_half_file(tmp_path: Path) -> None:
    with files_of_at_most(100):
        with pytest.raises((OSError, MedcoreError)):
            train(tiny_model(), random_images(2), None, TrainSettings(epochs=1), 0, state_path=tmp_path / "state")
        with pytest.raises((OSError, MedcoreError)):
            write_folder(tmp_path / "images", "medical", 1, 32, seed=0)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_lock_is_held_by_one_and_free_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path) and not path.exists()
    with locked(path) as handle:
        os.write(handle, b"who")
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        assert path.read_text() == "who"
    assert not is_locked(path)
    with locked(path, wait=False):
        assert is_locked(path)
    with pytest.raises(StorageError, match=r"gone.*No such file"), locked(tmp_path / "gone" / "a.lock"):
        pass


def test_why_a_file_cannot_be_written_is_told_in_the_systems_words_whoever_says_it() -> None:
    theirs = RuntimeError(f"Error while serializing: I/O error: Read-only (os error {errno.EROFS}) at path /a/b")
    for error in (theirs, OSError(errno.EROFS, "ignored"), PermissionError(errno.EACCES, "ignored")):
        message = str(cannot_write(Path("a/b"), error))
        assert re.fullmatch(r"a/b: cannot be written \((Read-only file system|Permission denied)\); .*", message)
    assert "free some space" in str(cannot_write(Path("b"), ValueError(f"(os error {errno.ENOSPC})")))
    assert str(cannot_write(Path("b"), ValueError("odd\nvery"))).startswith("b: cannot be written (odd); ")


def test_links_out_of_a_folder_are_not_written_through(tmp_path: Path) -> None:
    study, away = tmp_path / "study", tmp_path / "away"
    away.mkdir()
    (study / "trials").mkdir(parents=True)
    refuse_links(study, "trials/t0000", "absent")
    refuse_links_below(study)
    (study / "trials" / "t0000").symlink_to(away)
    for refuse in (lambda: refuse_links(study, "trials/t0000/finetune"), lambda: refuse_links_below(study)):
        with pytest.raises(StorageError, match="t0000: is a link"):
            refuse()
    refuse_links_below(study, "trials")
    link = tmp_path / "link"
    link.symlink_to(study)  # the folder itself may be a link
    refuse_links(link, "held_out")
    with pytest.raises(StorageError, match="is a link"):
        refuse_links_below(link)


def test_a_lock_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    (tmp_path / "search.lock").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(StorageError, match="is a link"), locked(tmp_path / "search.lock"):
        pass
    assert (tmp_path / "precious.txt").read_text() == "precious"
