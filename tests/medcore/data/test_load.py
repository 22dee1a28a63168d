"""Data folders to arrays: every rule that decides which pixels a model sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.imagefile import to_square
from medcore.data.kept_splits import find_splits
from medcore.data.load import load_image_set
from medcore.data.readers import list_folder
from medcore.data.splits import make_splits
from medcore.errors import DataError
from tests.support.helpers import shared_dir
from tests.support.image_files import blob, image_folder, noise


def saved_file(folder: Path, place: Path) -> Path | None:
    return find_splits(folder, list_folder(folder).samples, place)


@pytest.mark.parametrize("image_ending", ["png", "jpg", "JPEG", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mask_ending", ["png", "jpg", "bmp"])
def test_endings_may_differ(tmp_path: Path, image_ending: str, mask_ending: str) -> None:
    root = image_folder(tmp_path / "set", [])
    Image.fromarray(noise(0)).save(root / "images" / f"a.b.{image_ending}")
    Image.fromarray(blob()).save(root / "masks" / f"a.b.{mask_ending}")
    images, skipped = load_image_set([root], "all", 32)
    assert (images.names, images.datasets, skipped) == (["a.b"], ["set"], [])
    assert images.truths[0].shape == (40, 30) and images.truths[0].sum() == (blob() > 0).sum()


def test_exif_orientation_is_applied_to_both(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = image_folder(tmp_path / "set", [])
    Image.fromarray(noise(0)).save(root / "images" / "a.jpg", exif=exif)
    Image.fromarray(blob(30, 40)).save(root / "masks" / "a.png")
    images, _ = load_image_set([root], "all", 32)
    assert images.truths[0].shape == (30, 40)


def test_everything_unusable_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["good", "torn", "lost", "alone", "empty", "wide", "text", "dot", "bad_mask"])
    torn = root / "images" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:900])
    (root / "images" / "lost.png").unlink()
    (root / "masks" / "alone.png").unlink()
    Image.fromarray(blob() * 0).save(root / "masks" / "empty.png")
    Image.fromarray(blob(40, 31)).save(root / "masks" / "wide.png")
    (root / "images" / "text.png").write_text("no image")
    dot = blob(400, 400) * 0
    dot[1, 1] = 255
    Image.fromarray(noise(0, 400, 400)).save(root / "images" / "dot.png")
    Image.fromarray(dot).save(root / "masks" / "dot.png")
    (root / "masks" / "bad_mask.png").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("x")
    (root / "images" / ".DS_Store").write_text("x")
    Image.fromarray(noise(9)).save(root / "images" / "good.bmp")
    names = ["good.png", "torn", "lost", "alone", "empty", "wide", "text", "dot", "bad_mask", "ghost.jpg"]
    (root / "splits.json").write_text(json.dumps({"val": names}))
    images, skipped = load_image_set([root], "val", 32)
    assert images.names == ["good"]
    reasons = {entry.path.name: entry.reason for entry in skipped}
    expected = {
        "torn.png": "unreadable image",
        "lost.png": "mask without image",
        "alone.png": "image without mask",
        "empty.png": "mask without foreground",
        "wide.png": "31x40 for an image of 30x40",
        "text.png": "unreadable image",
        "dot.png": "vanishes at 32 pixels",
        "bad_mask.png": "unreadable mask",
        "notes.txt": "not an image file",
        "good.png": "same name as good.bmp",
        "ghost": "no such file",
    }
    assert reasons.keys() == expected.keys() and len(skipped) == len(expected)
    for name, words in expected.items():
        assert words in reasons[name] and "\n" not in reasons[name]


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL warns before it gives up
def test_no_truncation_or_damage_gets_through_as_a_crash(tmp_path: Path, ending: str) -> None:
    root = image_folder(tmp_path / "set", ["good"])
    Image.fromarray(noise(1)).save(tmp_path / f"whole.{ending}")
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    rng = np.random.default_rng(0)
    for index in range(25):
        data = bytearray(whole[: int(rng.integers(1, len(whole)))] if index % 2 else whole)
        for _ in range(index % 5):
            data[rng.integers(0, min(len(data), 200))] = rng.integers(0, 256)
        (root / "images" / f"x{index}.{ending}").write_bytes(data)
        Image.fromarray(blob()).save(root / "masks" / f"x{index}.png")
    images, skipped = load_image_set([root], "all", 16)
    assert len(images) + len(skipped) == 26 and "good" in images.names and len(skipped) >= 8


def test_nothing_left_and_wrong_places_are_one_line(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["a"])
    (root / "splits.json").write_text(json.dumps({"train": [], "val": ["b"]}))
    with pytest.raises(DataError, match=r"'val'.*no such file"):
        load_image_set([root], "val", 32)
    with pytest.raises(DataError, match=r"'tset'.*all, train, val, val/report, val/search"):
        load_image_set([root], "tset", 32)
    with pytest.raises(DataError, match=r"nowhere.*No such file"):
        load_image_set([tmp_path / "nowhere"], "val", 32)
    with pytest.raises(DataError, match="no data folder"):
        load_image_set([], "val", 32)
    twin = image_folder(tmp_path / "other" / "set", ["a"])
    with pytest.raises(DataError, match=r"'set'"):
        load_image_set([root, twin], "all", 32)


def test_saved_parts_of_folders_with_one_name_stay_apart(tmp_path: Path) -> None:
    roots = [image_folder(tmp_path / owner / "data", [f"{owner}{i}" for i in range(8)]) for owner in ("a", "b")]
    for root in roots:
        names = load_image_set([root], "val", 16, save_splits=tmp_path / "splits")[0].names
        assert names and all(name.startswith(root.parent.name) for name in names)
    assert saved_file(roots[0], tmp_path / "splits") == saved_file(
        roots[1].parent.parent / "a" / ".." / "a" / "data", tmp_path / "splits"
    )
    files = sorted(path.name for path in (tmp_path / "splits").iterdir())
    assert len(files) == 2 and all(re.fullmatch(r"data-[0-9a-f]{8}\.splits\.json", name) for name in files)


@pytest.mark.parametrize("own", [True, False])
def test_images_in_no_split_are_listed(own: bool, tmp_path: Path) -> None:
    root, place = image_folder(tmp_path / "set", [f"f{i}" for i in range(16)]), tmp_path / "splits"
    if own:
        parts = make_splits([f"f{i}" for i in range(16)], {"train": 3, "val": 1}, 0)
        (root / "splits.json").write_text(json.dumps(parts))
    load_image_set([root], "val/search", 16, save_splits=place)
    for kind in ("images", "masks"):
        (root / kind / "new.png").write_bytes((root / kind / "f0.png").read_bytes())
    for part in ("train", "val", "val/search", "val/report"):
        images, skipped = load_image_set([root], part, 16, save_splits=place)
        assert "new" not in images.names
        (entry,) = skipped
        assert entry.path == root / "images" / "new.png" and entry.reason.startswith("in no split of ")
        assert str(saved_file(root, place)) in entry.reason and (str(root / "splits.json") in entry.reason) == own
    assert not load_image_set([root], "all", 16, save_splits=place)[1]
    if own:  # in val now, but the halves have been dealt out already
        parts["val"].append("new")
        (root / "splits.json").write_text(json.dumps(parts))
        assert load_image_set([root], "val", 16, save_splits=place)[1] == []
        (entry,) = load_image_set([root], "val/report", 16, save_splits=place)[1]
        assert entry.reason.startswith("in neither half of ")


def test_parts_dealt_out_for_one_call_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    roots, place = (
        [
            image_folder(tmp_path / name, [f"f{i}" for i in range(16)], width=size)
            for name, size in (("one", 30), ("two", 31))
        ],
        tmp_path / "s",
    )
    (roots[1] / "splits.json").write_text(json.dumps({"train": ["f0", "f1"], "val": [f"f{i}" for i in range(2, 16)]}))
    load_image_set(roots, "val/search", 16)
    (record,) = caplog.records
    assert "'val/search'" in record.getMessage() and all(str(root) in record.getMessage() for root in roots)
    load_image_set(roots, "val", 16)
    assert str(roots[0]) in caplog.messages[1] and str(roots[1]) not in caplog.messages[1]
    caplog.clear()
    load_image_set(roots[1:], "train", 16)
    load_image_set(roots, "all", 16)
    load_image_set(roots, "val/search", 16, save_splits=place)
    assert not caplog.records


def test_saved_parts_can_be_demanded(tmp_path: Path) -> None:
    root, place = image_folder(tmp_path / "set", [f"f{i}" for i in range(16)]), tmp_path / "s"
    with pytest.raises(DataError, match=r"'val'.*all; .*no saved splits .*/s"):
        load_image_set([root], "val", 16, save_splits=place, deal_splits=False)
    assert not place.exists()
    expected = load_image_set([root], "val", 16, save_splits=place)[0].names
    assert load_image_set([root], "val", 16, save_splits=place, deal_splits=False)[0].names == expected


def test_an_empty_folder_saves_no_parts(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", [])
    with pytest.raises(DataError, match=r"no images found.* images/ and masks/"):
        load_image_set([root], "val", 16, save_splits=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_preprocessing_is_min_max_and_a_no_op_at_size(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["a", "b"], height=32, width=32)
    images, _ = load_image_set([root], "all", 32)
    for index in range(2):
        raw = noise(index, 32, 32).transpose(2, 0, 1)
        assert (images.images[index] == raw).all() and (images.masks[index] == (blob(32, 32) > 0)).all()
        expected = (raw.astype(float) - raw.min()) / (float(raw.max()) - raw.min())
        np.testing.assert_allclose(images.tensor([index])[0].numpy(), expected, atol=1e-6)
    picture = Image.fromarray(noise(5, 90, 70))
    assert to_square(picture, 32).shape == (3, 32, 32)


def test_choice_per_dataset_is_seeded_and_replaces_what_cannot_be_read(tmp_path: Path) -> None:
    roots = [
        image_folder(tmp_path / name, [f"f{i}" for i in range(9)], width=size)
        for name, size in (("one", 30), ("two", 31))
    ]
    for index in range(5):
        (roots[0] / "images" / f"f{index}.png").write_bytes(b"broken")
    images, skipped = load_image_set(roots, "all", 16, per_dataset=4, seed=3)
    assert images.datasets == ["one"] * 4 + ["two"] * 4 and images.names[:4] == ["f5", "f6", "f7", "f8"]
    assert all("unreadable" in entry.reason for entry in skipped)
    assert images.names == load_image_set(roots, "all", 16, per_dataset=4, seed=3)[0].names
    choices = {tuple(load_image_set(roots[1:], "all", 16, per_dataset=4, seed=s)[0].names) for s in range(5)}
    assert len(choices) > 1
    searched = load_image_set(roots, "val/search", 16, seed=0, save_splits=tmp_path / "splits")[0]
    assert searched.names == load_image_set(roots, "val/search", 16, seed=9)[0].names
    files = [saved_file(root, tmp_path / "splits") for root in roots]
    assert sorted((tmp_path / "splits").iterdir()) == files


def test_both_real_sets_load_whole() -> None:
    data = shared_dir() / "data"
    folders = [data / "kvasir-seg", data / "cvc-clinicdb"]
    images, skipped = load_image_set(folders, "all", 256)
    counts = [images.datasets.count(folder.name) for folder in folders]
    assert counts == [798, 400] and not skipped
    index = 17
    with Image.open(folders[0] / "images" / f"{images.names[index]}.jpg") as file:
        assert (images.images[index] == np.asarray(file).transpose(2, 0, 1)).all()
    for part, expected in (("train", 898), ("val", 300)):
        manifest = [json.loads((folder / "splits.json").read_text())[part] for folder in folders]
        assert sum(map(len, manifest)) == expected
    searched = load_image_set(folders, "val/search", 64)[0]
    reported = load_image_set(folders, "val/report", 64)[0]
    assert len(searched) + len(reported) == 300 and not set(searched.names) & set(reported.names)


def test_masks_that_look_inverted_are_named_once_for_a_data_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, odd = (image_folder(tmp_path / name, ["a", "b", "c"]) for name in ("plain", "odd"))
    for name in "ab":
        Image.fromarray(255 - blob()).save(odd / "masks" / f"{name}.png")
        Image.fromarray(blob(40, 31)).save(plain / "masks" / f"{name}.png")
    images, skipped = load_image_set([plain, odd], "all", 16)
    assert len(images) == 4 and len(skipped) == 2
    assert [any(word in message for word in ("plain", "another size")) for message in caplog.messages] == [True, False]
    assert "'odd'" in caplog.messages[1] and "inverted" in caplog.messages[1]
