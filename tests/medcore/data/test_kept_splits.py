"""Saved splits are found by what a folder holds, wherever it is, and nothing is dealt out again in silence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from medcore.data.kept_splits import find_splits, folder_splits
from medcore.data.readers import list_folder
from medcore.errors import DataError

NAMES = [f"f{i}" for i in range(24)]


def data_folder(folder: Path, names: list[str], salt: str = "") -> Path:
    """A folder whose files hold their names; listing and splits never decode them."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / kind / f"{name}.png").write_text(f"{salt}{name}")
    return folder


def parts_of(folder: Path, place: Path, *, deal: bool = True) -> dict[str, list[str]]:
    return folder_splits(folder, list_folder(folder).samples, place, deal=deal).names


def dealt(parts: dict[str, list[str]]) -> dict[str, list[str]]:
    return {split: names for split, names in parts.items() if split != "all"}


def as_before(place: Path, was: Path) -> Path:
    """Turn the only saved file into one of an earlier version, for a folder that was at `was`."""
    (file,) = place.iterdir()
    content = json.loads(file.read_text())
    del content["content"]
    old = place / f"{was.name}-{hashlib.sha256(os.fsencode(was)).hexdigest()[:8]}.splits.json"
    file.unlink()
    old.write_text(json.dumps(content))
    return old


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("change", ["moved", "copied", "linked", "more", "fewer", "moved and more", "moved and fewer"])
def test_a_folder_keeps_its_splits(tmp_path: Path, change: str, before: bool) -> None:
    data, place = data_folder(tmp_path / "old" / "kv", NAMES), tmp_path / "splits"
    first = parts_of(data, place)
    if before:
        as_before(place, data)
    now = tmp_path / "new" / "kv"
    now.parent.mkdir()
    if change == "copied":
        shutil.copytree(data, now)
    elif change == "linked":
        shutil.move(data, tmp_path / "elsewhere" / "kv")
        now.symlink_to(tmp_path / "elsewhere" / "kv")
    elif change.startswith("moved"):
        shutil.move(data, now)
    else:
        now = data
    if change.endswith("more"):
        data_folder(now, [f"a_{i}" for i in range(90)])
    for name in NAMES[:15] if change.endswith("fewer") else ():
        (now / "images" / f"{name}.png").unlink()
    assert dealt(parts_of(now, place, deal=False)) == dealt(first)
    assert dealt(parts_of(now, place)) == dealt(first) == dealt(parts_of(now, place))
    assert len(list(place.iterdir())) == 1
    added = folder_splits(now, list_folder(now).samples, place).unassigned("train")
    assert added == ({f"a_{i}" for i in range(90)} if change.endswith("more") else set())


@pytest.mark.parametrize("before", [False, True])
def test_a_renamed_folder_keeps_its_splits(tmp_path: Path, before: bool) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    first = parts_of(data, place)
    if before:
        as_before(place, data)
    data = data.rename(tmp_path / "kvasir")
    assert dealt(parts_of(data, place)) == dealt(first)
    data_folder(data, ["new0", "new1"])
    assert dealt(parts_of(data, place)) == dealt(first) and len(list(place.iterdir())) == 1


def test_halves_of_a_manifest_s_val_are_kept_too(tmp_path: Path) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    (data / "splits.json").write_text(json.dumps({"train": NAMES[:8], "val": NAMES[8:]}))
    first = parts_of(data, place)
    (file,) = place.iterdir()
    assert json.loads(file.read_text()).keys() == {"val/search", "val/report", "content"}
    data = data.rename(tmp_path / "kvasir")
    assert parts_of(data, place) == first and list(place.iterdir()) == [file]
    (data / "splits.json").write_text(json.dumps(dealt(first)))
    file.write_text("damaged")  # it is not read if the folder's own file decides everything
    assert parts_of(data, place) == first


@pytest.mark.parametrize("names", [NAMES, [f"x{i}" for i in range(24)], NAMES[:12]])
def test_other_images_are_another_data_set(tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture) -> None:
    one, place = data_folder(tmp_path / "a" / "data", NAMES), tmp_path / "splits"
    first = parts_of(one, place)
    other = data_folder(tmp_path / "b" / "data", names, salt="other ")
    parts = parts_of(other, place)
    assert sorted(parts["train"] + parts["val"]) == sorted(names)
    assert "new data set" in caplog.text and str(other) in caplog.text
    assert len(list(place.iterdir())) == 2 and dealt(parts_of(one, place)) == dealt(first)


def test_changed_names_never_move_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    first = parts_of(data, place)
    one, other = first["train"][0], first["val/report"][0]
    for kind in ("images", "masks"):  # swapped
        (data / kind / f"{one}.png").write_text(other)
        (data / kind / f"{other}.png").write_text(one)
    with pytest.raises(DataError, match=rf"2 images have changed names.*'{min(one, other)}' was '{max(one, other)}'"):
        parts_of(data, place)
    data_folder(data, NAMES)
    (data / "images" / f"{one}.png").write_text("mended")
    assert dealt(parts_of(data, place)) == dealt(first) and "1 of 24 images have other content" in caplog.text
    shutil.rmtree(data)
    data_folder(data, NAMES)
    for name in NAMES:  # each got another name
        for kind in ("images", "masks"):
            (data / kind / f"{name}.png").rename(data / kind / f"kv_{name}.png")
    with pytest.raises(DataError, match="24 images have changed names"):
        parts_of(data, place)
    away = tmp_path / "away" / "kv"
    shutil.move(data, away)
    parts_of(away, place)
    assert "24 of its images by other names" in caplog.text


def test_what_is_not_clear_is_refused_and_the_remedies_work(tmp_path: Path) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    first = parts_of(data, place)
    old = as_before(place, data)
    data = data_folder(data.rename(tmp_path / "kvasir"), ["new"])
    for deal in (True, False):
        with pytest.raises(
            DataError, match=r"24 of its 25 images .*rename that file to kvasir\.splits\.json"
        ) as caught:
            parts_of(data, place, deal=deal)
        assert str(old) in str(caught.value) and "\n" not in str(caught.value)
    old.rename(place / "kvasir.splits.json")
    assert dealt(parts_of(data, place)) == dealt(first)
    mixed = data_folder(tmp_path / "mixed", [*NAMES[:8], *(f"m{i}" for i in range(30))])
    with pytest.raises(DataError, match="8 of its 38 images"):
        parts_of(mixed, place)
    (mixed / "splits.json").write_text(json.dumps({"train": NAMES[:8], "val": [f"m{i}" for i in range(30)]}))
    with pytest.raises(DataError, match="8 of its 38 images"):  # the halves are still to be dealt out
        parts_of(mixed, place)
    (mixed / "splits.json").write_text(json.dumps({"train": NAMES[:8], "val/search": ["m1"], "val/report": ["m2"]}))
    assert parts_of(mixed, place)["val/report"] == ["m2"]


def test_two_files_that_differ_are_refused(tmp_path: Path) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    first = parts_of(data, place)
    (file,) = place.iterdir()
    twin = place / "copy.splits.json"
    shutil.copyfile(file, twin)
    data = data.rename(tmp_path / "kvasir")
    assert dealt(parts_of(data, place)) == dealt(first)
    content = json.loads(twin.read_text())
    content["val/search"], content["val/report"] = content["val/report"], content["val/search"]
    content["content"]["folder"] = ""
    twin.write_text(json.dumps(content))
    data = data.rename(tmp_path / "kv3")
    with pytest.raises(DataError, match="they differ") as caught:
        parts_of(data, place)
    assert str(file) in str(caught.value) and str(twin) in str(caught.value)
    twin.write_text("{")  # may have been the folder's, but another file is
    assert dealt(parts_of(data, place)) == dealt(first)
    file.unlink()
    with pytest.raises(DataError, match="not a readable"):
        parts_of(data, place)


def test_a_saved_file_of_before_learns_what_its_images_are(tmp_path: Path) -> None:
    data, place = data_folder(tmp_path / "kv", NAMES), tmp_path / "splits"
    parts_of(data, place)
    old = as_before(place, data)
    parts_of(data, place, deal=False)
    assert "content" not in json.loads(old.read_text())
    parts_of(data, place)
    assert json.loads(old.read_text())["content"]["images"].keys() == set(NAMES)
    other = data_folder(tmp_path / "cvc", NAMES[:20], salt="cvc")  # numbered alike, and known to be others now
    assert find_splits(other, list_folder(other).samples, place) is None
