"""A study on disk: what is written comes back, once, whatever was killed half-way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.store.study_info import read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import (
    all_rows,
    checkpoint_file,
    compact,
    finished_ids,
    read_images,
    read_phases,
    read_row,
    read_study,
    trial_folder,
    write_images,
    write_phases,
)
from tests.support.studies.rows import STUDY_INFO, write_row, write_study


def make_row(number: int, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    row = {
        "trial_id": f"t{number:04d}",
        "number": number,
        "status": "done",
        "reason": None,
        "seed": 7 + number,
        "origin": "sampled",
        "param/alpha": "adaptive" if number % 2 else 0.25,  # a choice and a number in one column
        "param/steps": 100,
        "flops": float(rng.uniform(1e9, 9e11)),
        "boundary_f1": rng.uniform(),
        "boundary_f1/kvasir-seg": np.float32(0.5),
        "heads": rng.integers(0, 12, 4),
        "channels": [int(n) for n in rng.integers(0, 99, 4)],
        "checkpoint": Path("trials") / f"t{number:04d}" / "model.safetensors",
        "seconds": 1.5,
        "started": "2025-01-01T00:00:00Z",
        "versions": {"torch": "2.13"} if number % 3 else {},
        "git": "abc",
    }
    return {**row, **changes}


def image_rows(n: int) -> list[dict[str, Any]]:
    return [{"dataset": "kvasir", "name": f"{i}.png", "dice": np.float64(i) / n, "hd95": i} for i in range(n)]


def fill(study: Path, numbers: list[int]) -> None:
    for number in numbers:
        row = make_row(number)
        write_images(study, row["trial_id"], image_rows(3))
        write_phases(study, row["trial_id"], [{"phase": "heads", "step": 1, "name": "loss", "value": 0.5}])
        write_row(study, row)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b)


def test_rows_come_back_sorted_by_number(tmp_path: Path) -> None:
    fill(tmp_path, [10, 2, 1])
    rows = read_study(tmp_path)
    assert rows["number"].tolist() == [1, 2, 10]
    assert rows["heads"].tolist() == [make_row(n)["heads"].tolist() for n in (1, 2, 10)]
    assert rows["checkpoint"][0] == "trials/t0001/model.safetensors"
    assert rows["param/alpha"].tolist() == ["adaptive", 0.25, 0.25]
    assert rows["versions"].tolist() == [{"torch": "2.13"}] * 3
    assert read_phases(tmp_path, "t0002") == [{"phase": "heads", "step": 1, "name": "loss", "value": 0.5}]
    assert read_phases(tmp_path, "t0099") == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_compacted_tables_say_the_same_as_the_files(tmp_path: Path) -> None:
    fill(tmp_path, list(range(8, -1, -1)))
    failed = {"trial_id": "f", "number": 9, "status": "failed", "reason": "out of memory", "extra": True}
    write_row(tmp_path, failed)
    from_files, images = read_study(tmp_path), read_images(tmp_path)
    compact(tmp_path)
    compact(tmp_path)
    for folder in (tmp_path / "trials").iterdir():
        for file in folder.iterdir():
            file.unlink()
    same(read_study(tmp_path), from_files)
    same(read_images(tmp_path), images)
    assert pd.read_parquet(tmp_path / "trials.parquet")["number"].tolist() == list(range(10))
    assert pd.read_parquet(tmp_path / "images.parquet")["trial_id"].value_counts().eq(3).all()
    assert from_files["reason"].iloc[-1] == "out of memory" and np.isnan(from_files["flops"].iloc[-1])


def test_row_files_win_over_the_table_and_a_resumed_study_keeps_both(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1])
    compact(tmp_path)
    (tmp_path / "trials" / "t0000" / "row.json").unlink()
    write_row(tmp_path, make_row(1, origin="dense"))
    fill(tmp_path, [2])
    compact(tmp_path)
    study = read_study(tmp_path)
    assert study["trial_id"].tolist() == ["t0000", "t0001", "t0002"]
    assert study["origin"].tolist() == ["sampled", "dense", "sampled"]
    assert len(read_images(tmp_path)) == 9


def test_a_trial_whose_folder_is_gone_has_still_finished(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1])
    before = all_rows(tmp_path)
    compact(tmp_path)
    shutil.rmtree(trial_folder(tmp_path, "t0000"))
    assert finished_ids(tmp_path) == {"t0000", "t0001"}
    assert all_rows(tmp_path) == before
    row = read_row(tmp_path, "t0000")
    assert row is not None and row.provenance.versions == {} and row.budget["heads"] == before[0].budget["heads"]
    assert read_row(tmp_path, "t0001") == before[1] and read_row(tmp_path, "t0002") is None
    assert finished_ids(tmp_path / "absent") == set() and all_rows(tmp_path / "absent") == []


def test_a_killed_writer_is_not_seen(tmp_path: Path) -> None:
    fill(tmp_path, [0])
    running = tmp_path / "trials" / "t0001"
    running.mkdir()
    (running / "row.json.77.tmp").write_text('{"trial_id": "t0')
    (running / "heads.safetensors").write_bytes(b"state of a phase")
    assert read_study(tmp_path)["number"].tolist() == [0]
    compact(tmp_path)
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"trial_id": "t00', "corrupt"),
        ("[]", "expected an object"),
        ('{"trial_id": "x", "status": "done"}', "number is missing"),
        ('{"trial_id": "x", "number": 1, "status": "running"}', "status 'running'"),
        ('{"trial_id": "y", "number": 1, "status": "done"}', "belongs to trial y"),
        ('{"trial_id": 3, "number": 1, "status": "done"}', "trial_id must be text"),
        ("\udcff", "corrupt"),
    ],
)
def test_a_corrupt_row_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "trials" / "x" / "row.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(MedcoreError, match=reason) as caught:
        read_study(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MedcoreError, match="delete this file"):
        read_row(tmp_path, "x")


def test_values_that_json_lacks(tmp_path: Path) -> None:
    write_row(tmp_path, make_row(0, hd95=np.inf, dice=float("nan"), nested={"a": [np.int64(1), np.nan]}))
    stored = json.loads((tmp_path / "trials" / "t0000" / "row.json").read_text())
    assert stored["hd95"] is None and stored["dice"] is None and stored["nested"] == {"a": [1, None]}


@pytest.mark.parametrize("changes", [{"trial_id": "../x"}, {"status": "lost"}, {"number": None}, {"trial_id": ""}])
def test_a_wrong_row_is_a_programming_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="trial"):
        write_row(tmp_path, {**make_row(0), **changes})
    assert not list(tmp_path.rglob("row.json"))


def test_no_study_and_empty_study(tmp_path: Path) -> None:
    for read in (read_study, read_images, compact, read_study_info):
        with pytest.raises(MedcoreError, match="no study"):
            read(tmp_path)
    with pytest.raises(MedcoreError, match="no such folder"):
        read_study(tmp_path / "absent")
    write_study(tmp_path, STUDY_INFO)
    compact(tmp_path)
    assert read_study(tmp_path).empty and "trial_id" in read_study(tmp_path)
    assert read_images(tmp_path).empty


def test_unreadable_tables_and_unwritable_folders(tmp_path: Path) -> None:
    (tmp_path / "trials.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(MedcoreError, match=r"trials.parquet: not a readable"):
        read_study(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot be written"):
        write_row(tmp_path / "file", make_row(0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trial_id": "../x"}, r"trial '\.\./x': trial_id is no folder name"),
        ({"trial_id": 7}, "trial 7: trial_id must be text"),
        ({"trial_id": None}, "trial None: trial_id is missing"),
        ({"number": 0.5}, "trial 't0000': trial_id must be text and number an integer"),
        ({"status": "lost"}, "trial 't0000': status 'lost'"),
        ("number", "no column number"),
        ("trial_id", "no column trial_id"),
    ],
)
def test_a_strangers_table_is_refused_in_one_line(tmp_path: Path, changes: Any, reason: str) -> None:
    frame = pd.DataFrame([make_row(0)])[["trial_id", "number", "status", "flops"]]
    frame = frame.drop(columns=changes) if isinstance(changes, str) else frame.assign(**changes)
    frame.to_parquet(tmp_path / "trials.parquet")
    for read in (read_study, read_images, finished_ids, lambda study: read_row(study, "t0000")):
        with pytest.raises(MedcoreError, match=rf"trials\.parquet: corrupt \({reason}.*\); restore it") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_strangers_images_are_refused_in_one_line(tmp_path: Path) -> None:
    write_row(tmp_path, make_row(0))
    pd.DataFrame({"trial_id": ["t0000"], "hd95": [1.0]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(MedcoreError, match=r"images\.parquet: corrupt \(no column dataset, name\); restore it"):
        read_images(tmp_path)


def test_empty_budgets_and_no_images(tmp_path: Path) -> None:
    write_images(tmp_path, "t0000", [])
    write_row(tmp_path, make_row(0, heads=[], channels=[]))
    before = read_study(tmp_path)
    compact(tmp_path)
    (tmp_path / "trials" / "t0000" / "row.json").unlink()
    same(read_study(tmp_path), before)
    assert read_images(tmp_path).empty
    assert trial_folder(tmp_path, "a.b") == tmp_path / "trials" / "a.b"


@pytest.mark.parametrize("place", ["../private.safetensors", "/tmp/private.safetensors"])
def test_a_checkpoint_outside_of_the_study_is_refused(tmp_path: Path, place: str) -> None:
    """Studies of strangers must not make us copy a file of ours."""
    row = TrialRow("t0", 0, "done", checkpoint="trials/t0/model.safetensors")
    assert checkpoint_file(tmp_path, row).parent.name == "t0"
    with pytest.raises(MedcoreError, match="names a checkpoint outside of the study"):
        checkpoint_file(tmp_path, dataclasses.replace(row, checkpoint=place))
