"""Folders of image and mask files: the usual layouts, odd names, and what is no file."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from medcore.data.load import load_image_set
from medcore.data.readers import is_data_folder, list_folder
from medcore.errors import DataError
from search.nodes.probe import data_folder
from tests.support.image_files import blob, image_folder, noise


def write(root: Path, *files: str) -> Path:
    """Write files below a folder: masks where the path says so, noise elsewhere; returns the folder."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = any(word in file.lower() for word in ("mask", "seg", "label", "gt", "truth", "annotation"))
        Image.fromarray(blob() if is_mask else noise(len(file))).save(path)
    return root


def listed(root: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Image and mask by sample, and reasons by skipped file; paths are relative to the folder."""
    listing = list_folder(root)
    samples = {s.name: (str(s.image.relative_to(root)), str(s.mask.relative_to(root))) for s in listing.samples}
    return samples, {str(entry.path.relative_to(root)): entry.reason for entry in listing.skipped}


def test_listing_is_in_natural_order(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["10", "9", "1"])
    listing = list_folder(root, dataset="named")
    assert [(s.dataset, s.name) for s in listing.samples] == [("named", n) for n in ("1", "9", "10")]


@pytest.mark.parametrize(
    ("image", "mask", "name"),
    [
        *[("images/a.jpg", f"{folder}/a.png", "a") for folder in ("masks", "Labels", "gt", "annotations", "mask")],
        *[(f"{folder}/a.jpg", "masks/a.png", "a") for folder in ("image", "imgs", "Images")],
        *[("images/a.jpg", f"masks/a{end}.png", "a") for end in ("_mask", "_segmentation", "_seg", "-mask", "_Mask_1")],
        *[("images/a.jpg", f"images/a{end}.png", "a") for end in ("_mask", "_segmentation")],
        ("a.jpg", "a_segmentation.png", "a"),
        ("imagesTr/case_1_0000.png", "labelsTr/case_1.png", "case_1"),
        ("images/case_1_0000.png", "labels/case_1.png", "case_1"),
        ("images/frame_0000.png", "masks/frame_0000.png", "frame_0000"),
        ("images/frame_0000.png", "masks/frame_0000_mask.png", "frame_0000"),
        ("images/p1/a.png", "masks/p1/a.png", "p1/a"),
        ("images/p1/t2/a.png", "masks/p1/t2/a_mask.png", "p1/t2/a"),
        ("images/p1/a.png", "images/p1/a_mask.png", "p1/a"),
    ],
)
def test_usual_layouts(tmp_path: Path, image: str, mask: str, name: str) -> None:
    root = write(tmp_path / "set", image, mask)
    assert listed(root) == ({name: (image, mask)}, {})
    assert is_data_folder(root)
    assert data_folder(root).files == 2
    assert load_image_set([root], "all", 16)[0].names == [name]


def test_equal_names_come_before_endings(tmp_path: Path) -> None:
    root = write(tmp_path, "images/a.png", "images/a_mask.png", "masks/a.png", "masks/a_mask.png")
    assert listed(root)[0] == {
        "a": ("images/a.png", "masks/a.png"),
        "a_mask": ("images/a_mask.png", "masks/a_mask.png"),
    }


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    names = ["images/a.png", "images/b.png", "masks/a_mask.png", "masks/a_mask_2.png", "masks/c.png", "masks/p/a.png"]
    samples, skipped = listed(write(tmp_path / "one", *names))
    assert list(samples) == ["a"]
    expected = {
        "images/b.png": "without mask",
        "masks/a_mask_2.png": "another mask of a",
        "masks/c.png": "without image",
    }
    assert all(words in skipped[file] for file, words in expected.items()) and "masks/p/a.png" in skipped
    channels = write(tmp_path / "two", "imagesTr/x_0000.png", "imagesTr/x_0001.png", "labelsTr/x.png")
    assert listed(channels)[1] == {"imagesTr/x_0001.png": "another channel of x"}


def test_patients_are_groups_and_their_splits_are_kept(tmp_path: Path) -> None:
    inside = [f"p{patient}/{index}" for patient in range(3) for index in (1, 2)]
    files = [f"{kind}/{name}.png" for kind in ("images", "masks") for name in (*inside, "flat")]
    root = write(tmp_path / "set", *files)
    groups = {sample.name: sample.group for sample in list_folder(root).samples}
    assert groups == {"flat": "", **{name: name[:2] for name in inside}}
    for _ in range(2):  # dealt out, then read
        parts = [load_image_set([root], split, 16, save_splits=tmp_path / "s")[0].names for split in ("train", "val")]
        assert sorted(parts[0] + parts[1]) == sorted(groups)
    (root / "splits.json").write_text(json.dumps({"train": ["p1/1"], "val": ["images/p0/2.png", "p2/9"]}))
    images, skipped = load_image_set([root], "val", 16)
    assert images.names == ["p0/2"] and any("no such file" in entry.reason for entry in skipped)


def test_a_folder_without_pairs_says_what_the_layouts_are(tmp_path: Path) -> None:
    cases = {
        "other names": ["images/a.png", "masks/b.png"],
        "no masks": ["images/a.png"],
        "no images": ["pictures/a.png", "masks/a.png"],
    }
    for name, files in cases.items():
        root = write(tmp_path / name, *files)
        assert not is_data_folder(root) or name == "other names"
        with pytest.raises(DataError, match=r"images/ and masks/.*imagesTr.*NAME_mask"):
            list_folder(root)
    two = write(tmp_path / "two", "images/a.png", "labels/a.png", "gt/a.png")
    with pytest.raises(DataError, match=r"labels/ or gt/.*masks/"):
        list_folder(two)


def test_a_project_with_some_pictures_is_no_data_folder(tmp_path: Path) -> None:
    root = write(tmp_path, "a.png", "a_mask.png")
    assert is_data_folder(root)
    for index in range(3):
        (root / f"code{index}.py").write_text("")
    assert not is_data_folder(root)


def test_composed_and_decomposed_letters_are_equal(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["x"])
    for kind, form in (("images", "NFC"), ("masks", "NFD")):
        (root / kind / "x.png").rename(root / kind / unicodedata.normalize(form, "Gewebe_ä.png"))
    (root / "splits.json").write_text(json.dumps({"val": [unicodedata.normalize("NFD", "Gewebe_ä.png")]}))
    images, skipped = load_image_set([root], "val", 16)
    assert images.names == [unicodedata.normalize("NFC", "Gewebe_ä")] and not skipped


def test_names_that_are_no_utf8_become_text(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["b"])
    for kind in ("images", "masks"):
        (root / kind / "b.png").rename(root / kind / os.fsdecode(b"M\xfcller.png"))
    names = load_image_set([root], "all", 16, save_splits=tmp_path / "s")[0].names
    assert names == ["M\\xfcller"] and names[0].encode()
    assert load_image_set([root], "all", 16, save_splits=tmp_path / "s")[0].names == names
    assert data_folder(root).files == 2
    # the same text as a name of its own is not mixed up with it
    for kind in ("images", "masks"):
        Image.fromarray(blob()).save(root / kind / "M\\xfcller.png")
    _, skipped = listed(root)
    assert len(skipped) == 2 and all("same name" in reason for reason in skipped.values())


def test_links_and_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "set", ["a", "fifo", "gone", "socket", "other"])
    real = root / "images" / "a.png"
    real.rename(tmp_path / "elsewhere.png")
    real.symlink_to(tmp_path / "elsewhere.png")
    for name in ("fifo", "gone", "socket"):
        (root / "images" / f"{name}.png").unlink()
    os.mkfifo(root / "images" / "fifo.png")
    (root / "images" / "gone.png").symlink_to("nowhere.png")
    monkeypatch.chdir(root / "images")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    patient = tmp_path / "p"
    write(patient, "s.png")
    (root / "images" / "linked").symlink_to(patient)
    (root / "images" / "circle").symlink_to(root / "images")
    samples, skipped = listed(root)
    assert list(samples) == ["a", "other"]
    expected = {"fifo": "FIFO", "gone": "broken link", "socket": "socket"}
    assert all(word in skipped[f"images/{name}.png"] for name, word in expected.items())
    assert "without mask" in skipped["images/linked/s.png"] and not any("circle" in file for file in skipped)
    assert data_folder(root).reason is None
