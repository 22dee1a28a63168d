"""Files of splits: damaged ones are refused in one line, and those of the released code are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medcore.data.split_files import SplitFile, read_split_file, write_split_file
from medcore.data.splits import read_splits
from medcore.errors import DataError

RELEASED = {
    "version": 1,
    "seed": 42,
    "val_fraction": 0.2,
    "test_fraction": 0.2,
    "datasets": [
        {
            "name": name,
            "root": f"/gone/{name}",
            "images": [f"{start + i}.jpg" for i in range(5)],
            "masks": [f"{start + i}.png" for i in range(5)],
            "train": [4, 0, 2],
            "validation": [1],
            "test": [3],
            "calibration": [4],
        }
        for name, start in (("kvasir", 0), ("cvc", 3))
    ],
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable splits file"),
        ("[" * 100_000, "not a readable splits file"),
        ('{"val": [' + "9" * 5000 + "]}", "not a readable splits file"),
        ('{"val": ["a"], "val": ["b"]}', "'val' is there twice"),
        ('{"val": [true]}', "'val' is no list of names"),
        ('{"val": {"a": 1}}', "'val' is no list of names"),
        ('["a"]', "expected an object"),
        ('{"val": ["a"], "content": {"images": {"a": 1}}}', "'content' is damaged"),
        ('{"version": 2, "datasets": []}', "version 2"),
        ('{"version": 1, "datasets": [{"name": "set"}]}', "'images'"),
        ('{"version": 1, "datasets": [{"name": "set", "images": ["a"], "train": [1]}]}', "'train'.* 1 images"),
        ('{"version": 1, "datasets": [{"name": "set", "images": ["b"], "train": [0]}]}', "no data set holds"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_splits(tmp_path, ["a"])
    assert "splits.json" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_name_of_many_digits_is_a_name(tmp_path: Path) -> None:
    long = "1" * 5000
    (tmp_path / "splits.json").write_text(json.dumps({"val": [long, "a"], "train": ["2", "b"]}))
    parts = read_splits(tmp_path, ["a", "b"]).names
    assert set(parts["val/search"] + parts["val/report"]) == {long, "a"}


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "link in a circle"])
def test_what_is_no_file_is_never_passed_over(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "splits.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("gone.json" if kind == "link to nothing" else path.name)
    with pytest.raises(DataError, match=r"splits\.json: "):
        read_splits(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match=r"splits\.json: "):
        read_splits(tmp_path / "other", ["a", "b"], save_to=path)


def test_the_released_code_s_file_gives_each_folder_its_own_splits(tmp_path: Path) -> None:
    for name, start in (("kvasir", 0), ("cvc", 3), ("renamed", 0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "splits.json").write_text("\ufeff" + json.dumps(RELEASED), encoding="utf-8")
        parts = read_splits(folder, [str(start + i) for i in range(5)]).names
        assert parts["train"] == [str(start + i) for i in (4, 0, 2)] and parts["calibration"] == [str(start + 4)]
        assert (parts["val"], parts["test"]) == ([str(start + 1)], [str(start + 3)])
    both = {
        **RELEASED,
        "datasets": [{**entry, "images": RELEASED["datasets"][0]["images"]} for entry in RELEASED["datasets"]],
    }
    (folder / "splits.json").write_text(json.dumps(both))
    with pytest.raises(DataError, match="several data sets hold the images of 'renamed'"):
        read_splits(folder, [str(i) for i in range(5)])


def test_a_sample_s_own_name_may_hold_folders(tmp_path: Path) -> None:
    names = [f"{patient}/slice{i}" for patient in ("a", "b") for i in range(4)]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:4], "val": names[4:]}))
    assert read_splits(tmp_path, names).names["train"] == names[:4]


def test_a_saved_file_reads_back(tmp_path: Path) -> None:
    content: Any = SplitFile({"train": ["a"], "val": ["b"]}, "set", "/data/set", {"a": "01", "b": "02"})
    write_split_file(tmp_path / "new" / "s.json", content)
    assert read_split_file(tmp_path / "new" / "s.json") == content
    write_split_file(tmp_path / "plain.json", SplitFile({"train": ["a"]}))
    assert json.loads((tmp_path / "plain.json").read_text()) == {"train": ["a"]}
