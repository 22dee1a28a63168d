"""Every image of a folder read once, against what the test has written; and the picture of a few."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.formats.windows import ReadingRules
from medcore.data.imagefile import box_of
from medcore.data.readers import list_folder
from results.plots.panels import NothingToDraw
from results.plots.samples import Shown, sample_picture
from search.commands.before.survey import survey
from tests.support.volume_files import dicom_folder, nifti_folder, npz_folder

SIZE = 32


def write(folder: Path, name: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> None:
    height, width = mask.shape if size is None else size
    pixels = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for place, picture in (("images", pixels), ("masks", mask)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / place / f"{name}.png")


def square(side: int, *values: int) -> np.ndarray:
    """A mask with one filled square for each value."""
    mask = np.zeros((side, side), np.uint8)
    for number, value in enumerate(values):
        mask[2 + 8 * number : 8 + 8 * number, 2:8] = value
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "scans"
    write(data, "a", square(40, 1))
    write(data, "b", square(64, 1, 2))
    write(data, "c", square(40, 2))
    write(data, "empty", square(40))
    write(data, "other", square(40, 1), size=(20, 20))
    (data / "images" / "broken.png").write_bytes(b"no picture")
    (data / "masks" / "broken.png").write_bytes(b"no picture")
    (data / "images" / "lone.png").write_bytes((data / "images" / "a.png").read_bytes())
    return data


def test_what_is_there_and_what_is_left_out(folder: Path) -> None:
    done: list[int] = []
    found = survey(
        folder,
        list_folder(folder),
        {"train": ["a", "b", "empty"], "val": ["c", "other"], "all": ["a"]},
        ReadingRules(labels="any", objects="labels"),
        SIZE,
        show=2,
        on_image=lambda: done.append(1),
    )
    assert (found.name, found.listed, found.usable, found.objects) == ("scans", 6, {"a", "b", "c"}, 4)
    assert found.sizes == {(40, 40): 3, (64, 64): 1, (20, 20): 1}
    assert found.values == ["0", "1", "2"] and found.parts == {"train": 2, "val": 1}
    assert found.truth_bytes == 2 * 40**2 + 2 * 64**2 and not found.spaced and found.problem == ""
    reasons = {entry.path.stem: entry.reason.partition(" (")[0].partition(":")[0] for entry in found.skipped}
    assert reasons == {
        "lone": "image without mask",
        "broken": "unreadable image",
        "empty": "mask without foreground",
        "other": "mask of another size than its image",
    }
    assert len(done) == 6
    assert [shown.name for shown in found.shown] == ["a#1", "c#2"]
    assert found.shown[0].image.shape == (SIZE, SIZE, 3)


def test_a_label_map_without_rules_ends_the_reading_with_a_problem(folder: Path) -> None:
    found = survey(folder, list_folder(folder), {}, ReadingRules(), SIZE)
    assert "b.png: a label map with the values 0, 1, 2" in found.problem


def test_values_of_files_that_are_cut_at_half_are_no_labels(tmp_path: Path) -> None:
    data = tmp_path / "lossy"
    write(data, "a", square(40, 255))
    Image.open(data / "masks" / "a.png").save(data / "masks" / "a.jpg")
    (data / "masks" / "a.png").unlink()
    found = survey(data, list_folder(data), {}, ReadingRules(), SIZE)
    assert found.values == ["lossy, cut at half"] and found.usable == {"a"}


@pytest.mark.parametrize("write", [npz_folder, nifti_folder, dicom_folder])
def test_scans_are_read_slice_by_slice(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = write(tmp_path / "scans")
    listing = list_folder(data)
    names = [sample.name for sample in listing.samples]
    found = survey(data, listing, {"train": names[:8], "val": names[8:]}, ReadingRules(windows="abdomen"), SIZE)
    # four volumes of four slices, the first of which has no object
    assert (found.listed, len(found.usable), found.objects) == (16, 12, 12)
    assert found.parts == {"train": 6, "val": 6} and found.spaced
    assert found.values == ["0", "255" if write is dicom_folder else "1"]  # DICOM's masks are pictures
    assert found.sizes == {(20, 24): 16} and len(found.shown) == 3
    (entry,) = found.skipped
    assert entry.reason.startswith("mask without foreground: 4 slices of 4 volumes")


def test_the_picture_has_an_outline_and_a_box(tmp_path: Path) -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:20, 8:30] = True
    shown = Shown("scans", "a", np.zeros((SIZE, SIZE, 3), np.uint8), mask, box_of(mask))
    sample_picture([shown] * 5, tmp_path / "p.png", "five")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    assert width > 800 and height > 500  # two rows of four
    sky = np.abs(pixels - (0x56, 0xB4, 0xE9)).sum(axis=2) < 30
    yellow = np.abs(pixels - (0xF0, 0xE4, 0x42)).sum(axis=2) < 60
    assert sky.sum() > 500 or yellow.sum() > 500
    with pytest.raises(NothingToDraw):
        sample_picture([], tmp_path / "none.png", "none")
